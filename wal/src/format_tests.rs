use super::*;

const SALT: u64 = 0x1111_1111_2222_2222;

fn data(count: u32, seq: u64, synced: u64) -> Fields {
    Fields {
        kind: FrameKind::Data,
        count,
        first_seq: SeqNo::new(seq),
        synced,
    }
}

#[test]
fn the_example_of_the_format() {
    let mut out = vec![1, 2, 3];
    encode(&mut out, data(1, 5, 96), &[b"a", b"", b"bc"], SALT, 96).unwrap();
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = "23000000c41b0fc92222222201000000\
                01050000000000006000000000000000\
                6162630000000000";
    assert_eq!(hex, text);
    let frame = decode(&out, SALT, 96).unwrap().unwrap();
    assert_eq!(frame.payload, b"abc");
    assert_eq!(frame.total, 40);
    assert_eq!(frame.fields.first_seq, SeqNo::new(5));
    assert_eq!((frame.fields.count, frame.fields.synced), (1, 96));
}

#[test]
fn no_changed_bit_and_no_other_place_verifies() {
    for len in [0, 1, 7, 8, 21] {
        let mut out = Vec::new();
        let payload = vec![0xa5; len];
        encode(&mut out, data(3, 1 << 40, 800), &[&payload], SALT, 808).unwrap();
        assert_eq!(out.len() as u64, frame_len(len));
        assert!(decode(&out, SALT, 808).unwrap().is_some());
        assert!(decode(&out, SALT, 816).unwrap().is_none());
        assert!(decode(&out, SALT ^ (1 << 63), 808).unwrap().is_none());
        assert!(decode(&out, SALT ^ 1, 808).unwrap().is_none());
        for bit in 0..out.len() * 8 {
            let mut broken = out.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&broken, SALT, 808).unwrap().is_none(), "bit {bit}");
        }
        for cut in 0..out.len() {
            assert!(
                decode(&out[..cut], SALT, 808).unwrap().is_none(),
                "cut at {cut}"
            );
        }
    }
}

#[test]
fn a_kind_of_the_future_is_unsupported_not_damage() {
    let mut out = Vec::new();
    encode(&mut out, data(1, 5, 0), &[b"abc"], SALT, 0).unwrap();
    for kind in [0, 5, 255] {
        out[TRAILER_OFFSET] = kind;
        let crc = crc_of(&out).wrapping_add(place(SALT, 0));
        out[CRC_OFFSET..SALT_OFFSET].copy_from_slice(&crc.to_le_bytes());
        let error = decode(&out, SALT, 0).unwrap_err();
        assert_eq!(error.kind(), terrace_base::ErrorKind::Unsupported);
    }
}

#[test]
fn links_and_closes_round_trip_and_reject_nonsense() {
    let link = Link {
        salt: SALT,
        predecessor: Some(Use {
            number: FileNumber(7),
            salt: 8,
            end: 4000,
        }),
        from: Lsn(96),
        first: Lsn(104),
        last_seq: SeqNo::new(9),
        manifest_edit: 10,
    };
    let first = Link {
        predecessor: None,
        ..link
    };
    for link in [link, first] {
        assert_eq!(Link::decode(&link.encode()).unwrap(), link);
    }
    assert!(Link::decode(&link.encode()[1..]).is_err());
    for wrong in [
        Link {
            from: Lsn(105),
            ..link
        },
        Link {
            first: Lsn(u64::MAX),
            ..link
        },
        Link {
            predecessor: Some(Use {
                number: FileNumber(7),
                salt: 8,
                end: 4001,
            }),
            ..link
        },
        Link {
            predecessor: Some(Use {
                number: FileNumber(7),
                salt: 8,
                end: 88,
            }),
            ..link
        },
    ] {
        assert!(Link::decode(&wrong.encode()).is_err(), "{wrong:?}");
    }
    let close = Close {
        last_seq: SeqNo::MAX,
        manifest_edit: 3,
    };
    assert_eq!(Close::decode(&close.encode()).unwrap(), close);
    assert!(Close::decode(&[255; 16]).is_err());
}

#[test]
fn a_record_longer_than_a_frame_is_refused() {
    let part = vec![0; 1 << 20];
    let parts = vec![&part[..]; 1 << 11];
    assert!(encode(&mut Vec::new(), data(1, 5, 0), &parts, SALT, 0).is_err());
}
