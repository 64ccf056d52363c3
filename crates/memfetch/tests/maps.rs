//! The parser of `/proc/PID/maps` over text that no kernel wrote.

use memfetch::maps::{parse, print};
use proptest::prelude::*;

proptest! {
    #[test]
    fn nothing_makes_it_panic(text: Vec<u8>) {
        let _ = parse(&text);
    }

    #[test]
    fn lines_with_any_field(fields in prop::collection::vec("[-0-9a-fx:+rwps ]{0,20}", 5), name: Vec<u8>) {
        let mut line = fields.join(" ").into_bytes();
        line.push(b' ');
        line.extend_from_slice(&name);
        line.push(b'\n');
        let _ = parse(&line);
    }

    #[test]
    fn names_come_back(name in "[^ \\[\0][^\0]{0,40}", inode in 1_u64..) {
        let escaped = name.replace('\n', "\\012");
        prop_assume!(!name.contains("\\012"));
        let line = format!("1000-2000 r--p 00003000 08:01 {inode} {escaped}\n");
        prop_assume!(escaped.trim_ascii_start() == escaped);
        let map = parse(line.as_bytes()).unwrap();
        prop_assert_eq!(map.as_slice()[0].name(), name.as_str());
        prop_assert_eq!(&parse(&print(&map)).unwrap(), &map);
    }

    #[test]
    fn a_changed_byte_is_an_error_or_another_map(at in 0_usize..4000, byte: u8) {
        let mut text = std::fs::read("/proc/self/maps").unwrap();
        let len = text.len();
        text[at % len] = byte;
        if let Ok(map) = parse(&text) {
            let spans: Vec<_> = map.iter().map(|region| region.span).collect();
            prop_assert!(spans.windows(2).all(|pair| pair[0].end() <= pair[1].start()));
        }
    }
}
