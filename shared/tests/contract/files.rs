//! The promises of [`Files`].

mod listing;
mod putting;
mod reading;

use atelier_shared::ports::{Files, PortError, Result};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use libtest_mimic::Trial;

use crate::archive::promises;
use crate::fixture::{both, on_s3};

pub fn trials(trials: &mut Vec<Trial>) {
    promises!(trials, "files":
        putting::a_file_is_read_back_as_it_was_put,
        putting::a_put_overwrites,
        putting::a_failed_put_leaves_nothing_and_what_was_there_stays,
        putting::a_put_whose_caller_went_away_leaves_nothing,
        putting::a_file_is_absent_until_it_is_whole,
        putting::a_large_file_passes_through_little_memory,
        putting::keys_that_could_leave_the_store_are_refused_everywhere,
        reading::what_is_not_there_is_none_and_can_be_deleted,
        reading::a_range_is_cut_to_what_the_file_has,
        listing::a_list_is_in_key_order_and_in_pages,
        listing::a_prefix_is_a_folder,
    );
    macro_rules! on_s3 {
        ($($module:ident :: $promise:ident),+ $(,)?) => {
            $(on_s3(trials, "files", stringify!($promise), $module::$promise);)+
        };
    }
    // Not those that look into the folder, nor what is asked of a folder's own name: the server, which keeps objects in
    // folders, fails there, where a bucket has none.
    on_s3!(
        putting::a_file_is_read_back_as_it_was_put,
        putting::a_put_overwrites,
        putting::a_file_is_absent_until_it_is_whole,
        reading::a_range_is_cut_to_what_the_file_has,
        listing::a_list_is_in_key_order_and_in_pages,
        listing::a_prefix_is_a_folder,
    );
}

/// `bytes` as a stream of pieces of at most `piece`.
pub fn pieces(bytes: &Bytes, piece: usize) -> BoxStream<'static, Result<Bytes>> {
    let mut rest = bytes.clone();
    let mut all = Vec::new();
    while !rest.is_empty() {
        all.push(Ok(rest.split_to(piece.min(rest.len()))));
    }
    stream::iter(all).boxed()
}

pub fn whole(bytes: &'static [u8]) -> BoxStream<'static, Result<Bytes>> {
    pieces(&Bytes::from_static(bytes), usize::MAX)
}

/// A stream that fails after `bytes`.
pub fn broken(bytes: Bytes) -> BoxStream<'static, Result<Bytes>> {
    let torn = Err(PortError::retry("receive upload", "the client went away"));
    stream::iter([Ok(bytes), torn]).boxed()
}

pub async fn read(files: &dyn Files, key: &str) -> Option<Vec<u8>> {
    let stream = files.get(key, None).await.expect("get")?;
    Some(gather(stream).await)
}

pub async fn gather(stream: BoxStream<'static, Result<Bytes>>) -> Vec<u8> {
    let parts: Vec<Bytes> = stream.try_collect().await.expect("read");
    parts.concat()
}

/// Bytes that differ everywhere.
pub fn noise(size: usize) -> Bytes {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(size).collect()
}
