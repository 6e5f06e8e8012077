//! Documents against yrs itself, as property tests, and what must be refused.

use proptest::prelude::*;
use yrs::types::ToJson;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{
    Any, Array, ArrayPrelim, ArrayRef, Doc, GetString, Map, MapPrelim, MapRef, OffsetKind, Options,
    ReadTxn, StateVector, Text, TextRef, Transact, TransactionMut, Update,
};

use super::*;

/// A person's own copy.
struct Copy {
    doc: Doc,
    text: TextRef,
    map: MapRef,
    array: ArrayRef,
}

impl Copy {
    fn new(client: u64) -> Self {
        let doc = Doc::with_options(Options {
            client_id: yrs::block::ClientID::new(client),
            offset_kind: OffsetKind::Utf16,
            ..Options::default()
        });
        Self {
            text: doc.get_or_insert_text("text"),
            map: doc.get_or_insert_map("map"),
            array: doc.get_or_insert_array("array"),
            doc,
        }
    }

    /// Changes something; the update that says what.
    fn change(&self, work: impl FnOnce(&mut TransactionMut<'_>)) -> Bytes {
        let mut transaction = self.doc.transact_mut();
        work(&mut transaction);
        transaction.encode_update_v1().into()
    }

    fn write(&self, text: &str) -> Bytes {
        self.change(|t| {
            let end = self.text.len(t);
            self.text.insert(t, end, text);
        })
    }

    fn apply(&self, update: &[u8]) {
        let update = Update::decode_v1(update).unwrap();
        self.doc.transact_mut().apply_update(update).unwrap();
    }

    fn state(&self) -> Bytes {
        let all = StateVector::default();
        self.doc.transact().encode_state_as_update_v1(&all).into()
    }

    fn shown(&self) -> (String, Any, Any) {
        let t = self.doc.transact();
        (
            self.text.get_string(&t),
            self.map.to_json(&t),
            self.array.to_json(&t),
        )
    }

    fn edit(&self, edit: &Edit) -> Bytes {
        self.change(|t| match *edit {
            Edit::Write(at, what) => {
                let at = at % (self.text.len(t) + 1);
                self.text
                    .insert(t, at, ["a", "bcd", "é", "x y z"][what % 4]);
            }
            Edit::Cut(at, length) => {
                let all = self.text.len(t);
                if all > 0 {
                    let at = at % all;
                    self.text
                        .remove_range(t, at, (length % 5 + 1).min(all - at));
                }
            }
            Edit::Put(key, value) => {
                let key = ["k", "l", "m"][key % 3];
                if value % 3 == 0 {
                    let inner = MapPrelim::from([("v", value as f64 + 0.5)]);
                    self.map.insert(t, key, inner);
                } else {
                    self.map.insert(t, key, value as i64);
                }
            }
            Edit::Drop(key) => drop(self.map.remove(t, ["k", "l", "m"][key % 3])),
            Edit::Push(value) => {
                let inner = ArrayPrelim::from([value as i64, 2]);
                self.array.push_back(t, inner);
            }
            Edit::Pop => {
                let length = self.array.len(t);
                if length > 0 {
                    self.array.remove(t, length / 2);
                }
            }
        })
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Write(u32, usize),
    Cut(u32, u32),
    Put(usize, usize),
    Drop(usize),
    Push(usize),
    Pop,
}

/// Who edits what, whom of the others it reaches at once, and whether the update that the server gets is the whole state.
#[derive(Debug, Clone)]
struct Step {
    who: usize,
    edit: Edit,
    reaches: Option<usize>,
    whole: bool,
    /// A key that its place in the server's order is sorted by.
    order: u32,
}

fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<u32>(), any::<usize>()).prop_map(|(a, b)| Edit::Write(a, b)),
        2 => (any::<u32>(), any::<u32>()).prop_map(|(a, b)| Edit::Cut(a, b)),
        1 => (0..3usize, 0..100usize).prop_map(|(a, b)| Edit::Put(a, b)),
        1 => (0..3usize).prop_map(Edit::Drop),
        1 => (0..100usize).prop_map(Edit::Push),
        1 => Just(Edit::Pop),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        0..3usize,
        edits(),
        prop::option::of(0..3usize),
        prop::bool::weighted(0.3),
        any::<u32>(),
    );
    let step = step.prop_map(|(who, edit, reaches, whole, order)| Step {
        who,
        edit,
        reaches,
        whole,
        order,
    });
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever order updates come in, however they overlap and whenever they are merged, the document is what yrs itself
    /// makes of all of them; and every way out of it (state, diff, JSON, compaction) says the same.
    #[test]
    fn the_fold_is_what_yrs_makes_of_all_updates(steps in steps(), merge_every in 2..20usize) {
        let copies = [Copy::new(1), Copy::new(2), Copy::new(3)];
        let everything = Copy::new(4);
        let mut updates = Vec::new();
        for step in &steps {
            let writer = &copies[step.who];
            let increment = writer.edit(&step.edit);
            everything.apply(&increment);
            if let Some(other) = step.reaches {
                copies[other].apply(&writer.state());
            }
            let update = if step.whole { writer.state() } else { increment };
            updates.push((step.order, update));
        }
        updates.sort_by_key(|(order, _)| *order);
        let mut document = Document::default();
        let mut logged = 0;
        for (at, (_, update)) in updates.iter().enumerate() {
            check(update).unwrap();
            if let Some(news) = document.news(update) {
                logged += 1;
                prop_assert!(news.len() <= update.len() + 16);
                check(&news).unwrap();
                document.fold(&news);
            }
            prop_assert!(document.news(update).is_none(), "it is all there now");
            if at % merge_every == 0 && let Some(merge) = document.merge_all() {
                let merged = merge.run().unwrap();
                document.absorb(&merge, merged);
                prop_assert!(document.merge_all().is_none());
            }
        }
        prop_assert!(logged <= steps.len());
        let shown = |state: &[u8]| {
            let reader = Copy::new(9);
            reader.apply(state);
            reader.shown()
        };
        let expected = everything.shown();
        prop_assert_eq!(&shown(&document.snapshot().state()), &expected);

        for copy in &copies {
            let vector = copy.doc.transact().state_vector().encode_v1();
            copy.apply(&document.snapshot().diff(&vector).unwrap());
            prop_assert_eq!(&copy.shown(), &expected);
        }

        let json = serde_json::to_string(&document).unwrap();
        let read: Document = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read, &document);
        prop_assert_eq!(read.held(), document.held());

        let held = document.held();
        prop_assert!(compact(&mut document));
        prop_assert!(document.merge_all().is_none());
        prop_assert_eq!(&shown(&document.snapshot().state()), &expected);
        let after = document.held();
        prop_assert!(after.structs.contains_all(&held.structs));
        prop_assert!(after.deleted.contains_all(&held.deleted));
        for (_, update) in &updates {
            prop_assert!(document.news(update).is_none());
        }
    }

    /// Bytes that somebody flipped, cut, doubled or made up are refused or taken, quickly and without a panic; what is
    /// taken can be merged with the rest.
    #[test]
    fn mutated_updates_never_panic(
        steps in steps(),
        blows in prop::collection::vec((any::<prop::sample::Index>(), 0..5u8, any::<u8>()), 1..6),
    ) {
        let writer = Copy::new(7);
        let mut document = Document::default();
        for step in &steps {
            document.fold(&writer.edit(&step.edit));
        }
        let mut bytes = document.snapshot().state().to_vec();
        for (place, kind, byte) in blows {
            let at = place.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(byte);
            }
        }
        if check(&bytes).is_ok() {
            let update = Bytes::from(bytes);
            if let Some(news) = document.news(&update) {
                document.fold(&news);
            }
            document.snapshot().state();
            compact(&mut document);
        }
    }

    #[test]
    fn made_up_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&bytes);
        let _ = read_state_vector(&bytes);
        let _ = Document::default().snapshot().diff(&bytes);
    }
}

#[test]
fn of_a_whole_state_only_what_is_new_is_left() {
    let ana = Copy::new(1);
    let mut document = Document::default();
    let mut logged = 0;
    for _ in 0..500 {
        ana.write("x");
        let news = document.news(&ana.state()).unwrap();
        logged += news.len();
        document.fold(&news);
        assert_eq!(document.news(&ana.state()), None);
    }
    assert!(logged < 500 * 24, "{logged} bytes for 500 letters");
}

#[test]
fn a_deletion_alone_is_news_and_is_kept_once() {
    let ana = Copy::new(1);
    let mut document = Document::default();
    document.fold(&ana.write("hello world"));
    ana.change(|t| ana.text.remove_range(t, 2, 3));
    let news = document.news(&ana.state()).unwrap();
    assert_eq!(Outline::read(&news).unwrap().structs, IdSet::default());
    document.fold(&news);
    let again = ana.change(|t| ana.text.remove_range(t, 2, 1));
    let whole = document.news(&ana.state()).unwrap();
    assert_eq!(whole, again, "only the second deletion");
    // Somebody who has every struct still gets the deletions.
    let bea = Copy::new(2);
    bea.apply(&ana.write("!"));
    let vector = ana.doc.transact().state_vector().encode_v1();
    document.fold(&whole);
    let diff = document.snapshot().diff(&vector).unwrap();
    assert_eq!(
        Outline::read(&diff).unwrap().deleted,
        document.held().deleted
    );
}

#[test]
fn an_update_that_comes_before_its_predecessor_is_kept_for_it() {
    let ana = Copy::new(1);
    let (one, two, three) = (ana.write("one "), ana.write("two "), ana.write("three"));
    let mut document = Document::default();
    document.fold(&three);
    document.fold(&one);
    assert_eq!(
        document.held().structs.prefix(1),
        4,
        "a state vector stops at the hole"
    );
    assert_eq!(document.news(&three), None);
    assert_eq!(document.news(&two), Some(two.clone()));
    document.fold(&two);
    assert!(compact(&mut document));
    let bea = Copy::new(2);
    bea.apply(&document.snapshot().state());
    assert_eq!(bea.shown().0, "one two three");
}

#[test]
fn a_hole_survives_compaction() {
    let ana = Copy::new(1);
    let (one, two, three) = (ana.write("one "), ana.write("two "), ana.write("three"));
    let mut document = Document::default();
    document.fold(&one);
    document.fold(&three);
    compact(&mut document);
    assert_eq!(document.news(&three), None);
    document.fold(&two);
    let bea = Copy::new(2);
    bea.apply(&document.snapshot().state());
    assert_eq!(bea.shown().0, "one two three");
}

#[test]
fn compaction_leaves_out_what_was_deleted() {
    let ana = Copy::new(1);
    let mut document = Document::default();
    for round in 0..200 {
        document.fold(&ana.write(&format!("some words of round {round}")));
        let all = ana.change(|t| {
            let length = ana.text.len(t);
            ana.text.remove_range(t, 0, length);
        });
        document.fold(&all);
    }
    document.fold(&ana.write("the end"));
    let before = document.snapshot().state().len();
    assert!(compact(&mut document));
    let after = document.bytes();
    assert!(after * 20 < before, "{before} to {after}");
    let bea = Copy::new(2);
    bea.apply(&document.snapshot().state());
    assert_eq!(bea.shown().0, "the end");
}

#[test]
fn pieces_stay_few_and_large_ones_are_merged_seldom() {
    let ana = Copy::new(1);
    let mut document = Document::default();
    let (mut merges, mut merged_bytes, mut most) = (0, 0, 0);
    for at in 0..5_000 {
        document.fold(&ana.write(if at % 2 == 0 { "tick" } else { "tock" }));
        if let Some(merge) = document.merge_due() {
            merges += 1;
            merged_bytes += merge.pieces().iter().map(Bytes::len).sum::<usize>();
            let merged = merge.run().unwrap();
            document.absorb(&merge, merged);
        }
        most = most.max(document.pieces.len());
    }
    assert!(most <= PIECES_PER_MERGE, "{most}");
    assert!(merges <= 60, "{merges}");
    assert!(
        merged_bytes < 8 * document.bytes(),
        "{merged_bytes} for {}",
        document.bytes()
    );
    assert_eq!(document.held().structs.prefix(1), 20_000);
}

#[test]
fn what_claims_more_than_it_holds_is_refused_at_once() {
    let started = std::time::Instant::now();
    let nested = |levels: usize| {
        // One struct of client 1, in the root "t": an array in an array in …
        let mut bytes = vec![1, 1, 1, 0, 8, 1, 1, b't', 1];
        bytes.extend([117, 1].repeat(levels));
        bytes.extend([126, 0]);
        bytes
    };
    assert!(check(&nested(10)).is_ok());
    let bombs: [Vec<u8>; 8] = [
        vec![],
        // So many clients, structs, values, bytes.
        vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0],
        vec![1, 0xff, 0xff, 0xff, 0x7f, 1, 0],
        vec![1, 1, 1, 0, 8, 1, 1, b't', 1, 118, 0xff, 0xff, 0xff, 0x7a, 0],
        vec![1, 1, 1, 0, 3, 1, 1, b't', 0xff, 0xff, 0xff, 0x7f, 0],
        // So many deletions.
        vec![0, 1, 1, 0xff, 0xff, 0xff, 0x7f],
        nested(1_000),
        nested(500_000),
    ];
    for bomb in bombs {
        assert!(check(&bomb).is_err(), "{:?}", &bomb[..bomb.len().min(16)]);
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

/// Types in types, far deeper than a stack: deleting the outermost would end the process.
#[test]
fn types_that_nest_without_end_are_refused() {
    let nested = |levels: u32| {
        let mut bytes = vec![1];
        write_var(&mut bytes, u64::from(levels));
        bytes.extend([1, 0]);
        for level in 0..levels {
            bytes.push(7);
            if level == 0 {
                bytes.extend([1, 1, b't']);
            } else {
                bytes.extend([0, 1]);
                write_var(&mut bytes, u64::from(level - 1));
            }
            // An array.
            bytes.push(0);
        }
        // All of it deleted by its first struct.
        bytes.extend([1, 1, 1, 0, 1]);
        bytes
    };
    assert!(check(&nested(200)).is_ok());
    assert_eq!(check(&nested(300)), Err(Malformed::TOO_DEEP));
    assert_eq!(check(&nested(200_000)), Err(Malformed::TOO_DEEP));
}

/// What stock clients send, byte for byte as Yjs 13 wrote it.
#[test]
fn updates_of_stock_yjs_are_read() {
    // new Y.Doc(); doc.getText("test").insert(0, "abc"), then "de" by another client.
    let update = [
        2, 1, 220, 240, 237, 172, 15, 0, 4, 1, 4, 116, 101, 115, 116, 3, 97, 98, 99, 1, 201, 139,
        250, 201, 1, 0, 4, 1, 4, 116, 101, 115, 116, 2, 100, 101, 0,
    ];
    let outline = check(&update).unwrap();
    assert_eq!(outline.structs.prefix(4_120_606_812), 3);
    let clients: Vec<u64> = outline.structs.iter().map(|(client, _)| client).collect();
    assert_eq!(clients.len(), 2);
    for (client, ranges) in outline.structs.iter() {
        assert_eq!(ranges.len(), 1, "{client}");
    }
    assert_eq!(check(&EMPTY_UPDATE).unwrap().deletions_at, 1);
    let cut = check(&update[..20]).unwrap_err();
    assert_eq!(
        cut.to_string(),
        "is not a Yjs update (v1): it claims to hold more than it has bytes for"
    );
    let more = [&update[..], &[0]].concat();
    assert!(check(&more).is_err());
}

/// What all three show.
fn shown(copy: &Copy) -> (String, Any, Any) {
    let read = copy.doc.transact();
    (
        copy.text.get_string(&read),
        copy.map.to_json(&read),
        copy.array.to_json(&read),
    )
}

fn copy_of(document: &Document) -> Copy {
    let copy = Copy::new(77);
    let update = Update::decode_v1(&document.snapshot().state()).unwrap();
    copy.doc.transact_mut().apply_update(update).unwrap();
    copy
}

#[test]
fn a_restored_document_looks_as_it_did_and_open_copies_follow() {
    let (ana, mut document) = (Copy::new(1), Document::default());
    document.fold(&ana.change(|t| {
        ana.text.insert(t, 0, "one two three");
        ana.map.insert(t, "kept", 1);
        ana.map.insert(t, "changed", "old");
        ana.map.insert(t, "gone", true);
        let inner = ana.array.push_back(t, MapPrelim::default());
        inner.insert(t, "deep", "old");
        ana.array.push_back(t, 2);
    }));
    document.fold(&ana.change(|t| ana.text.remove_range(t, 0, 4)));
    let then = document.clone();
    assert_eq!(restore(&document, &then).unwrap(), None);

    document.fold(&ana.change(|t| {
        ana.text.remove_range(t, 0, 3);
        ana.text.insert(t, 0, "mess");
        ana.map.insert(t, "changed", "new");
        ana.map.remove(t, "gone");
        ana.map.insert(t, "more", 3);
        ana.array.remove(t, 0);
        ana.array.push_back(t, ArrayPrelim::from([7, 8]));
    }));
    let mess = document.clone();
    assert_ne!(shown(&ana), shown(&copy_of(&then)));

    let back = restore(&document, &then).unwrap().expect("something to do");
    document.fold(&back);
    assert_eq!(shown(&copy_of(&document)), shown(&copy_of(&then)));
    // Somebody who never left follows by the update alone, and goes on.
    ana.doc
        .transact_mut()
        .apply_update(Update::decode_v1(&back).unwrap())
        .unwrap();
    assert_eq!(shown(&ana), shown(&copy_of(&then)));
    document.fold(&ana.change(|t| ana.text.push(t, "!")));
    assert!(shown(&copy_of(&document)).0.ends_with('!'));

    let undone = restore(&document, &mess).unwrap().expect("something to do");
    document.fold(&undone);
    assert_eq!(shown(&copy_of(&document)), shown(&copy_of(&mess)));
}
