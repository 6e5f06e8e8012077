//! Documents whose types nest deeper and deeper over many updates, each of them harmless: a `Doc` recurses.

use super::*;

/// One type, in the one that is a level further out.
fn level(at: u32) -> Bytes {
    let mut bytes = vec![1, 1, 1];
    write_var(&mut bytes, u64::from(at));
    bytes.push(7);
    if at == 0 {
        bytes.extend([1, 1, b't']);
    } else {
        bytes.extend([0, 1]);
        write_var(&mut bytes, u64::from(at - 1));
    }
    bytes.extend([0, 0]);
    Bytes::from(bytes)
}

/// Each update nests a little, in what the one before it brought: together they nest without end.
#[test]
fn what_nests_without_end_over_many_updates_is_merged_and_never_put_through_a_doc() {
    const EACH: u32 = 200;
    const UPDATES: u32 = 500;
    let update = |from: u32| {
        let mut bytes = vec![1];
        write_var(&mut bytes, u64::from(EACH));
        bytes.push(1);
        write_var(&mut bytes, u64::from(from));
        for level in from..from + EACH {
            bytes.push(7);
            if level == 0 {
                bytes.extend([1, 1, b't']);
            } else {
                bytes.extend([0, 1]);
                write_var(&mut bytes, u64::from(level - 1));
            }
            bytes.push(0);
        }
        bytes.push(0);
        Bytes::from(bytes)
    };
    let mut document = Document::default();
    for at in 0..UPDATES {
        let update = update(at * EACH);
        assert!(check(&update).is_ok(), "each is sound");
        document.fold(&update);
        if let Some(merge) = document.merge_due() {
            document.absorb(&merge, merge.run().unwrap());
        }
    }
    // All of it deleted by its first struct.
    document.fold(&Bytes::from_static(&[0, 1, 1, 1, 0, 1]));
    let merge = document.merge_all().unwrap();
    document.absorb(&merge, merge.run().unwrap());
    assert_eq!(document.held().structs.prefix(1), EACH * UPDATES);
    let before = document.snapshot().state();
    // Would end the process, not only fail.
    assert!(!compact(&mut document), "it stays as it is");
    assert_eq!(document.snapshot().state(), before);
    assert!(restore(&document, &Document::default()).is_err());
    let kept = serde_json::to_string(&document).unwrap();
    let read: Document = serde_json::from_str(&kept).unwrap();
    assert_eq!(read, document, "a checkpoint of it can be read");
}

/// The other side of it: the deepest that is let through to a `Doc`, built up by one update for each level, is compacted
/// (and deleted, which collects by recursion) in a quarter of the stack that a worker's thread has.
#[test]
fn the_deepest_that_is_let_through_fits_in_a_quarter_of_a_threads_stack() {
    // What tokio gives its threads, blocking ones included.
    const STACK: usize = 2 << 20;
    let of_levels = move |levels: u32| {
        let mut document = Document::default();
        for at in 0..levels {
            let update = level(at);
            assert!(check(&update).is_ok(), "each is sound");
            document.fold(&update);
        }
        document
    };
    let levels = u32::try_from(NESTING_MAX).unwrap() + 1;
    let thread = std::thread::Builder::new().stack_size(STACK / 4);
    let compacted = thread.spawn(move || {
        let mut deepest = of_levels(levels);
        assert!(compact(&mut deepest), "alive");
        let mut deleted = of_levels(levels);
        deleted.fold(&Bytes::from_static(&[0, 1, 1, 1, 0, 1]));
        let before = deleted.bytes();
        assert!(compact(&mut deleted), "deleted");
        assert!(deleted.bytes() < before, "nothing was collected");
    });
    compacted.unwrap().join().unwrap();
}

fn document_of(levels: std::ops::Range<u32>) -> Document {
    let mut document = Document::default();
    for at in levels {
        document.fold(&level(at));
    }
    document
}

const MAX: u32 = NESTING_MAX as u32;

#[test]
fn a_document_takes_what_stays_within_its_levels_and_nothing_deeper() {
    // Types in a row: many, and none in another.
    let row = |from: u32, count: u32| {
        let mut bytes = vec![1];
        write_var(&mut bytes, u64::from(count));
        bytes.push(2);
        write_var(&mut bytes, u64::from(from));
        for _ in 0..count {
            bytes.extend([7, 1, 1, b'r', 0]);
        }
        bytes.push(0);
        Bytes::from(bytes)
    };
    let mut document = document_of(0..MAX);
    document.fold(&row(0, 10_000));
    assert_eq!(document.levels(), NESTING_MAX + 10_000, "not counted yet");
    let then = document.levels();
    let counted = document.snapshot().levels_with(&row(10_000, 5)).unwrap();
    assert_eq!(counted, NESTING_MAX - 1, "types around the innermost");
    document.fold(&row(10_000, 5));
    document.counted(then, counted);
    assert_eq!(document.levels(), NESTING_MAX - 1 + 5);
    assert_eq!(
        document.snapshot().levels_with(&level(MAX)),
        Ok(NESTING_MAX)
    );
    document.fold(&level(MAX));
    let refused = document.snapshot().levels_with(&level(MAX + 1));
    assert_eq!(refused, Err(Malformed::MAKES_TOO_DEEP));
}

#[test]
fn what_hangs_on_nothing_yet_counts_as_if_it_hung_on_the_deepest() {
    // The innermost first, each on what is not there yet; and half of a document that is there.
    let mut document = document_of(0..MAX / 2);
    let mut refused = None;
    for at in (MAX / 2 + 1..MAX * 2).rev() {
        match document.snapshot().levels_with(&level(at)) {
            Ok(_) => document.fold(&level(at)),
            Err(error) => {
                refused = Some((at, error));
                break;
            }
        }
    }
    let (at, error) = refused.expect("refused before they are joined");
    assert_eq!(error, Malformed::MAKES_TOO_DEEP);
    assert!(at > MAX, "{at}");
}

/// Of pods that let in what the others don't know of yet, or from before documents were counted.
#[test]
fn a_document_that_is_deeper_all_the_same_is_compacted_and_may_be_gone_on_with() {
    const DEEP: u32 = 8_000;
    let mut document = document_of(0..DEEP);
    document.fold(&Bytes::from_static(&[0, 1, 1, 1, 0x80, 0x20, 1]));
    let outside = Bytes::from_static(&[1, 1, 9, 0, 7, 1, 1, b'o', 0, 0]);
    assert!(document.snapshot().levels_with(&outside).is_ok());
    let before = document.snapshot().state();
    assert!(compact(&mut document));
    assert!(
        document.bytes() < before.len(),
        "what was deleted is left out"
    );
    let empty = Document::default();
    assert!(restore(&document, &empty).unwrap().is_some());
}
