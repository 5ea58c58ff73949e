//! The mode `endure`, short: two rounds with little memory, and one with more.
#![cfg(target_os = "linux")]

mod command;

#[test]
fn databases_with_four_mib_endure() {
    let at = "memory=4,threads=4,databases=1,disk=plain,durability=buffered,table=4096,\
              nofile=0,spare=99,seconds=2,idle=0";
    command::run(&["endure", "--seed", "1", "--count", "2", "--at", at]);
}

#[test]
fn a_database_with_sixteen_mib_endures_and_rests() {
    let at = "memory=16,threads=8,databases=1,disk=plain,durability=interval,nofile=0,\
              spare=99,seconds=2,idle=1";
    command::run(&["endure", "--seed", "3", "--count", "1", "--at", at]);
}
