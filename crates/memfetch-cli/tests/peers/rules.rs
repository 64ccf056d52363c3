//! YARA rules: what yara finds in a process that stands still is what we find, where yara is right.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::process::Command;
use std::time::Duration;

use memfetch::Process;
use memfetch::query::rules::{RuleOptions, RuleText, Rules};
use memfetch::query::sweep::{Scope, Survey};
use memfetch_testkit::peers::{Server, Still, find, run, text};

const RULES: &str = r#"
import "math"
import "hash"
rule words : common { meta: about = "words" strings:
    $a = "PYTHONHASHSEED" $b = "pYtHoN" nocase fullword $c = "memfetch marker" wide ascii condition: any of them }
rule patterns { strings:
    $a = { 7f 45 4c 46 02 ?? 01 } $b = { 6d 61 72 ( 6b | 6c ) [0-3] 72 2d } $c = /marker-[0-9a-f]{4,9}\b/
    $d = "marker-" xor(1-3) $e = "memfetch marker" base64 condition: any of them }
rule counts { strings: $a = "counted marker" condition: #a == 7 and @a[2] > @a[1] and !a[1] == 14 }
rule reads { strings: $a = "hashed marker" condition: for any i in (1..#a): (uint32be(@a[i]) == 0x68617368
    and hash.md5(@a[i], !a[i]) == hash.md5("hashed marker") and math.entropy(@a[i], !a[i]) > 2) }
rule nothing { strings: $a = "hopefully in no process at all, but for these rules" condition: #a > 100 }
private rule hidden { strings: $a = "counted marker" condition: $a }
rule depends { condition: hidden and not nothing }
"#;

/// The markers lie in one mapping that is never freed, and where no other copy of them is left.
const SCRIPT: &str = "
import mmap, time, threading
m = mmap.mmap(-1, 3 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
def put(at, parts): m[at:at + sum(map(len, parts))] = b''.join(parts)
for i in range(7): put(1000 + i * 70001, [b'coun', b'ted ', b'mar', b'ker'])
put(524284, [b'has', b'hed ', b'mar', b'ker'])
put(999_999, [b'mark', b'er-', b'0123', b'abcd '])
put(1048570, [bytes(c for a in b'memfetch mark' b'er' for c in (a, 0))])
put(2000000, [bytes(c ^ 2 for c in b'mark' b'er-')])
threading.Thread(target=time.sleep, args=(100000,)).start()
";

#[test]
fn yara_finds_the_same_in_a_process_that_stands_still() {
    let check = "rules beside yara";
    let (Some(yara), Some(python)) = (find("yara", check), find("python3", check)) else { return };
    let server = Server::start(&python, &["-c", SCRIPT], |pid| {
        std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yar");
    std::fs::write(&file, RULES).unwrap();
    let _still = Still::hold(server.pid());

    let rules = RuleText { name: "rules.yar".into(), namespace: "default".into(), text: RULES.into() };
    let rules = Rules::compile(&[rules], &[], &mut |_, _| Err(std::io::ErrorKind::NotFound.into())).unwrap();
    let process = Process::open(server.pid()).unwrap();
    let survey = Survey::of(&process, &Scope::default()).unwrap();
    let mut ours = (Vec::new(), BTreeSet::new());
    let report = rules.run(&process, &survey, &RuleOptions::default(), |rule| {
        for string in &rule.strings {
            ours.1.insert((rule.rule.clone(), string.at.get(), string.identifier.clone()));
        }
        ours.0.push(rule.rule);
        ControlFlow::Continue(())
    });
    assert!(report.is_whole(), "{report:?}");

    let output = run(
        Command::new(yara).args(["-s", "-w"]).arg(&file).arg(server.pid().to_string()),
        Duration::from_secs(120),
    );
    assert!(output.status.success(), "{}", text(&output));
    let mut theirs = (Vec::new(), BTreeSet::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match line.strip_prefix("0x").and_then(|line| line.split_once(':')) {
            Some((address, rest)) => {
                let identifier = rest.split_once(':').unwrap().0.to_owned();
                let rule: &String = theirs.0.last().unwrap();
                theirs.1.insert((rule.clone(), u64::from_str_radix(address, 16).unwrap(), identifier));
            }
            None => theirs.0.push(line.split(' ').next().unwrap().to_owned()),
        }
    }
    assert_eq!(ours.0, theirs.0);
    assert!(ours.0.contains(&"counts".to_owned()) && ours.0.contains(&"reads".to_owned()), "{:?}", ours.0);
    let only = |a: &BTreeSet<(String, u64, String)>, b| a.difference(b).cloned().collect::<Vec<_>>();
    assert_eq!(only(&ours.1, &theirs.1), [], "only ours");
    assert_eq!(only(&theirs.1, &ours.1), [], "only yara's");
    assert!(ours.1.len() > 20);
}
