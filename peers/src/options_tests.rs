use super::*;

fn parse(line: &str) -> Result<Options> {
    let args: Vec<String> = line.split_whitespace().map(str::to_string).collect();
    Options::parse(&args)
}

#[test]
fn options_are_read() {
    let options = parse("--engines null --keys 5000 --rows fillsync,read_random --memory 64");
    assert!(options.unwrap_err().to_string().contains("read_random"));
    let options = parse("--engines null --keys 5000 --rows fillsync,reopen_clean --memory 64");
    let options = options.unwrap();
    assert_eq!(
        (options.keys, options.memory, options.rounds),
        (5_000, 64 << 20, 5)
    );
    assert_eq!(options.rows, ["fillsync", "reopen_clean"]);
    assert_eq!(
        parse("--compression lz4").unwrap().compressions,
        [Compression::Lz4]
    );
}

#[test]
fn mistakes_are_named() {
    for line in [
        "--keys",
        "--keys many",
        "--keys 10",
        "--engines nosuch",
        "--frob 1",
        "--pause -1",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}
