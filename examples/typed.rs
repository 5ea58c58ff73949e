//! Typed keys and values: temperatures by station and time, and a report on one night.
//!
//! ```text
//! cargo run --release --example typed
//! ```

use terrace::{Db, Key, Typed};

/// Station and hour since some midnight, before which there were hours too.
type Reading = (String, i32);

fn main() -> terrace::Result<()> {
    let db = Db::in_memory()?;
    let readings: Typed<Reading, i64> = db.keyspace("readings")?.typed();
    for (station, hour, tenths) in [
        ("Säntis", -1, -48),
        ("Säntis", 3, -71),
        ("Säntis", 12, 16),
        ("Basel", 3, 94),
        ("Zermatt", 3, -12),
    ] {
        readings.put((station.to_string(), hour), tenths)?;
    }

    let night = readings.range(("Säntis".to_string(), -3)..("Säntis".to_string(), 6));
    let mut hours = Vec::new();
    for entry in night {
        let ((station, hour), tenths) = entry?;
        println!(
            "{station} at hour {hour:>3}: {:>5.1} degrees",
            tenths as f64 / 10.0
        );
        hours.push(hour);
    }
    assert_eq!(
        hours,
        [-1, 3],
        "in the order of the hours, negative ones first"
    );

    // By temperature: the order of floats is that of their keys.
    let by_heat: Typed<(f64, String), String> = db.keyspace("by heat")?.typed();
    for entry in readings.iter() {
        let ((station, hour), tenths) = entry?;
        by_heat.put((tenths as f64 / 10.0, station), format!("hour {hour}"))?;
    }
    let coldest = by_heat.first()?;
    let warmest = by_heat.last()?;
    println!("coldest: {coldest:?}, warmest: {warmest:?}");
    assert_eq!(coldest.map(|((degrees, _), _)| degrees), Some(-7.1));

    let key = ("Basel".to_string(), 3);
    println!("{key:?} is stored under {}", key.to_bytes().escape_ascii());
    let about = readings.keyspace().approximate_count(..)?;
    println!("about {about} readings");
    Ok(())
}
