//! Documents whose types nest deeper and deeper over many updates, each of them harmless: a `Doc` recurses.

use super::*;

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
    assert_eq!(
        restore(&document, &Document::default()),
        Err(Malformed::TOO_DEEP)
    );
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
    let level = |at: u32| {
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
    };
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
        assert!(!compact(&mut of_levels(levels + 1)), "one more is too many");
    });
    compacted.unwrap().join().unwrap();
}
