//! Guests whose logins have lapsed: a guest has no password, so nobody can ever be them again. Those who are members of
//! nothing and authors of no insight are forgotten; what they said in rooms keeps the name it was said under.

use std::collections::HashSet;

use atelier_shared::domain::cleanup::Counts;
use atelier_shared::domain::ids::UserId;
use atelier_shared::ports::Result;

use super::{Cleaner, count, now};

/// A guest's row is there before their login, and what is told of a login may be late.
const GRACE: chrono::Duration = chrono::Duration::days(1);
const PAGE: usize = 500;

impl Cleaner {
    pub(super) async fn guests(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        const WHAT: &str = "expired_guests";
        count(counts, WHAT, 0);
        let b = &self.backends;
        let (before, mut after) = (now() - GRACE, None);
        loop {
            let page = b.records.guests(before, after, PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            let page: Vec<UserId> = page
                .into_iter()
                .filter_map(|(guest, is_something)| (!is_something).then_some(guest))
                .collect();
            let alive: HashSet<UserId> =
                b.vault.logged_in(&page, now()).await?.into_iter().collect();
            for guest in page {
                if alive.contains(&guest) {
                    continue;
                }
                if !dry_run {
                    if !b.records.forget_guest(guest).await? {
                        continue;
                    }
                    b.vault.announce_change(guest).await?;
                }
                count(counts, WHAT, 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atelier_shared::domain::ids::{FamilyId, RoomId};
    use atelier_shared::domain::room::{Role, Room, RoomChoice};
    use atelier_shared::domain::user::{NewUser, User, UserKind};
    use atelier_shared::ports::Family;
    use chrono::Duration;
    use proptest::prelude::*;

    use super::super::tests::{embedded, run};
    use super::*;

    /// What happens, to which guest.
    #[derive(Debug, Clone)]
    enum Step {
        /// Comes, so many hours ago, with a login that lasts for so many.
        Come(i64, i64),
        /// Becomes a member of the room, or is taken out of it.
        Member(usize, bool),
        LogOut(usize),
        Clean(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_i64..60, 1_i64..60).prop_map(|(ago, lasts)| Step::Come(ago, lasts)),
            2 => (0_usize..8, any::<bool>()).prop_map(|(who, is)| Step::Member(who, is)),
            1 => (0_usize..8).prop_map(Step::LogOut),
            2 => any::<bool>().prop_map(Step::Clean),
        ]
    }

    /// A guest as the test knows them.
    struct Known {
        hours: i64,
        logged_in: bool,
        member: bool,
    }

    impl Known {
        fn is_wanted(&self) -> bool {
            self.hours < 24 || self.logged_in || self.member
        }
    }

    fn guest(hours: i64) -> NewUser {
        NewUser {
            user: User {
                id: UserId::generate(),
                kind: UserKind::Guest,
                username: "ana".into(),
                name: "Ana".into(),
                email: None,
                avatar_url: None,
                is_admin: false,
                created_at: now() - Duration::hours(hours),
            },
            password_hash: None,
        }
    }

    async fn follow(steps: Vec<Step>) {
        let (cleaner, _folder) = embedded().await;
        let b = &cleaner.backends;
        let room = Room::new(RoomId::generate(), RoomChoice::default(), None, None, now());
        assert!(b.records.create_room(&room).await.unwrap());
        let mut account = guest(1_000);
        account.user.kind = UserKind::Account;
        b.records.create_user(&account).await.unwrap();
        let mut guests: BTreeMap<UserId, Known> = BTreeMap::new();
        for step in steps {
            let nth = |n: usize| guests.keys().nth(n % guests.len().max(1)).copied();
            match step {
                Step::Come(hours, lasts) => {
                    let new = guest(hours);
                    let id = new.user.id;
                    b.records.create_user(&new).await.unwrap();
                    let family = Family {
                        id: FamilyId::generate(),
                        user_id: id,
                        expires_at: new.user.created_at + Duration::hours(lasts),
                    };
                    b.vault.create_family(&family, [7; 32]).await.unwrap();
                    let known = Known {
                        hours,
                        logged_in: lasts > hours,
                        member: false,
                    };
                    guests.insert(id, known);
                }
                Step::Member(who, is) => {
                    let Some(id) = nth(who) else { continue };
                    let role = is.then_some(Role::Viewer);
                    b.records.set_role(&room.id, id, role).await.unwrap();
                    guests.get_mut(&id).unwrap().member = is;
                }
                Step::LogOut(who) => {
                    let Some(id) = nth(who) else { continue };
                    b.vault.revoke_user(id, now()).await.unwrap();
                    guests.get_mut(&id).unwrap().logged_in = false;
                }
                Step::Clean(dry_run) => {
                    let mut counts = Counts::new();
                    cleaner.guests(dry_run, &mut counts).await.unwrap();
                    let unwanted = guests.values().filter(|known| !known.is_wanted()).count();
                    assert_eq!(counts["expired_guests"], unwanted as u64);
                    if !dry_run {
                        guests.retain(|_, known| known.is_wanted());
                    }
                }
            }
            for id in guests.keys().chain([&account.user.id]) {
                assert!(b.records.user(*id).await.unwrap().is_some());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]

        #[test]
        fn no_guest_who_can_come_back_or_is_something_is_forgotten_and_the_others_are(
            steps in prop::collection::vec(step(), 1..40),
        ) {
            run(follow(steps));
        }
    }
}
