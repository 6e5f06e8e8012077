//! People: unique names, logins.

use atelier_shared::Mode;
use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::room::{Role, Room, RoomChoice};
use atelier_shared::domain::user::UserKind;
use atelier_shared::ports::{CreateUserError, RoleChange};
use chrono::DateTime;
use libtest_mimic::Trial;

use super::{account, at_once, now, unique};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(trials, "records", "a_person_is_read_back_whole", read_back);
    both(
        trials,
        "records",
        "user_names_are_unique_in_every_spelling_and_script",
        unique_names,
    );
    both(
        trials,
        "records",
        "email_addresses_are_unique_without_regard_to_case",
        unique_addresses,
    );
    both(
        trials,
        "records",
        "nobody_is_called_by_the_email_address_of_another",
        names_and_addresses,
    );
    both(trials, "records", "guests_bind_no_names", guests);
    both(
        trials,
        "records",
        "a_guest_who_is_nothing_anywhere_is_forgotten",
        idle_guests,
    );
    both(
        trials,
        "records",
        "twenty_registrations_of_one_name_make_one_account",
        registration_race,
    );
    both(
        trials,
        "records",
        "a_login_is_a_name_or_an_address_in_any_case",
        logins,
    );
    both(
        trials,
        "records",
        "a_password_is_set_only_for_people_who_are_stored",
        passwords,
    );
    both(
        trials,
        "records",
        "an_account_is_made_an_administrator_by_its_name",
        administrators,
    );
    both(
        trials,
        "records",
        "anonymous_people_are_not_stored",
        anonymous,
    );
    both(
        trials,
        "records",
        "times_are_kept_to_the_microsecond",
        microseconds,
    );
}

fn taken(outcome: Result<(), CreateUserError>) -> Option<&'static str> {
    match outcome {
        Err(CreateUserError::Taken(field)) => Some(field),
        Ok(()) => None,
        Err(CreateUserError::Port(e)) => panic!("{e}: {:?}", e.source),
    }
}

async fn read_back(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut new = account(&unique("Zoë"));
    new.user.name = "Zoë 🦊".into();
    new.user.email = Some(unique("Zoë@Example.org"));
    new.user.avatar_url = Some("https://example.org/a.png".into());
    new.user.is_admin = true;
    records.create_user(&new).await?;
    assert_eq!(records.user(new.user.id).await?, Some(new.user));
    assert_eq!(records.user(UserId::generate()).await?, None);
    Ok(())
}

async fn unique_names(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for (first, second) in [
        ("élodie", "ÉLODIE"),
        ("Ａlice", "alICE"),
        ("ﬁnn", "FINN"),
        ("Ярослав", "ЯРОСЛАВ"),
        ("e\u{301}va", "Éva"),
        ("Σοφία", "σοφία"),
    ] {
        let suffix = unique("");
        records
            .create_user(&account(&format!("{first}{suffix}")))
            .await?;
        let again = account(&format!("{second}{suffix}"));
        assert_eq!(
            taken(records.create_user(&again).await),
            Some("username"),
            "{second} after {first}"
        );
        assert_eq!(records.user(again.user.id).await?, None);
    }
    Ok(())
}

async fn unique_addresses(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let address = unique("Ada@Example.org");
    let mut first = account(&unique("ada"));
    first.user.email = Some(address.clone());
    records.create_user(&first).await?;
    let mut second = account(&unique("ada"));
    second.user.email = Some(address.to_uppercase());
    assert_eq!(taken(records.create_user(&second).await), Some("email"));
    // What was refused bound nothing: the same name goes with another address, and with none.
    second.user.email = None;
    records.create_user(&second).await?;
    Ok(())
}

async fn names_and_addresses(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let address = unique("bob@example.org");
    let mut bob = account(&unique("bob"));
    bob.user.email = Some(address.clone());
    records.create_user(&bob).await?;
    let squatter = account(&address.to_uppercase());
    assert_eq!(
        taken(records.create_user(&squatter).await),
        Some("username")
    );

    let odd = account(&unique("eve@example.org"));
    records.create_user(&odd).await?;
    let mut owner = account(&unique("eve"));
    owner.user.email = Some(odd.user.username.to_uppercase());
    assert_eq!(taken(records.create_user(&owner).await), Some("email"));

    let mut own = account(&unique("own@example.org"));
    own.user.email = Some(own.user.username.clone());
    assert_eq!(
        taken(records.create_user(&own).await),
        None,
        "one's own address"
    );
    Ok(())
}

async fn guests(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let name = unique("grace");
    let holder = account(&name);
    records.create_user(&holder).await?;
    for _ in 0..2 {
        let mut guest = account(&name);
        guest.user.kind = UserKind::Guest;
        guest.password_hash = None;
        records.create_user(&guest).await?;
        assert_eq!(records.user(guest.user.id).await?, Some(guest.user));
    }
    let (found, _) = records.user_by_login(&name).await?.expect("the account");
    assert_eq!(found.id, holder.user.id);
    Ok(())
}

async fn registration_race(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let name = unique("race");
    let outcomes = at_once(20, |_| {
        let (records, new) = (records.clone(), account(&name));
        async move { taken(records.create_user(&new).await) }
    })
    .await;
    let made = outcomes.iter().filter(|taken| taken.is_none()).count();
    assert_eq!(made, 1, "{outcomes:?}");
    assert_eq!(
        outcomes.iter().filter(|t| **t == Some("username")).count(),
        19
    );
    Ok(())
}

async fn logins(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut new = account(&unique("Łukasz"));
    new.user.email = Some(unique("Lukasz@Example.org"));
    records.create_user(&new).await?;
    let address = new.user.email.clone().unwrap_or_default();
    for login in [
        new.user.username.clone(),
        new.user.username.to_uppercase(),
        address.to_lowercase(),
    ] {
        let (user, hash) = records.user_by_login(&login).await?.expect(&login);
        assert_eq!((user, hash.as_str()), (new.user.clone(), "$argon2id$one"));
    }
    for login in [
        unique("nobody"),
        "nul\0".to_owned(),
        "x".repeat(1 << 20),
        String::new(),
    ] {
        assert!(records.user_by_login(&login).await?.is_none());
    }
    let mut keyless = account(&unique("keyless"));
    keyless.password_hash = None;
    records.create_user(&keyless).await?;
    let found = records.user_by_login(&keyless.user.username).await?;
    assert!(found.is_none(), "without a password nobody logs in");
    Ok(())
}

async fn passwords(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let new = account(&unique("pass"));
    records.create_user(&new).await?;
    records
        .set_password_hash(new.user.id, "$argon2id$two")
        .await?;
    let (_, hash) = records
        .user_by_login(&new.user.username)
        .await?
        .expect("it");
    assert_eq!(hash, "$argon2id$two");
    let stranger = records.set_password_hash(UserId::generate(), "$x").await;
    assert!(!stranger.expect_err("nobody").is_retryable());
    Ok(())
}

async fn administrators(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let new = account(&unique("root"));
    records.create_user(&new).await?;
    for is_admin in [true, false] {
        let name = new.user.username.to_uppercase();
        assert!(records.set_admin(&name, is_admin).await?);
        let stored = records.user(new.user.id).await?.expect("the account");
        assert_eq!(stored.is_admin, is_admin);
    }
    let mut guest = account(&unique("guest"));
    guest.user.kind = UserKind::Guest;
    records.create_user(&guest).await?;
    for name in [guest.user.username, unique("nobody"), "nul\0".to_owned()] {
        assert!(!records.set_admin(&name, true).await?, "{name:?}");
    }
    Ok(())
}

async fn anonymous(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut new = account(&unique("anonymous"));
    new.user.kind = UserKind::Anonymous;
    let Err(CreateUserError::Port(error)) = records.create_user(&new).await else {
        return Err("an anonymous person was stored".into());
    };
    assert!(!error.is_retryable());
    assert_eq!(records.user(new.user.id).await?, None);
    Ok(())
}

async fn microseconds(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut new = account(&unique("micro"));
    new.user.created_at = DateTime::from_timestamp(1_700_000_000, 123_456_789).expect("a time");
    records.create_user(&new).await?;
    let stored = records.user(new.user.id).await?.expect("the person");
    assert_eq!(
        stored.created_at,
        DateTime::from_timestamp(1_700_000_000, 123_456_000).expect("a time")
    );
    Ok(())
}

async fn idle_guests(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let made = |days| {
        let mut new = account(&unique("guest"));
        new.user.kind = UserKind::Guest;
        new.user.created_at -= chrono::Duration::days(days);
        new.password_hash = None;
        new
    };
    let (idle, member, young, ana) = (made(9), made(9), made(0), account(&unique("ana")));
    for new in [&idle, &member, &young, &ana] {
        records.create_user(new).await?;
    }
    let room = Room::new(
        RoomId::generate(),
        RoomChoice::default(),
        Some(member.user.id),
        None,
        now(),
    );
    assert!(records.create_room(&room).await?);
    let before = now() - chrono::Duration::days(7);
    // Other tests' guests may be among them.
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = records.guests(before, after, 3).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.0);
        found.extend(page);
    }
    for (new, is) in [
        (&idle, Some(false)),
        (&member, Some(true)),
        (&young, None),
        (&ana, None),
    ] {
        let seen = found.iter().find(|(id, _)| *id == new.user.id);
        assert_eq!(seen.map(|(_, is)| *is), is, "{new:?}");
    }
    for (new, forgotten) in [
        (&member, false),
        (&ana, false),
        (&idle, true),
        (&idle, false),
    ] {
        assert_eq!(records.forget_guest(new.user.id).await?, forgotten);
    }
    assert!(records.user(idle.user.id).await?.is_none());
    // Nobody deleted their account: what they wrote keeps its name.
    assert_eq!(records.deleted_users(&[idle.user.id]).await?, []);
    let host = records.set_role(&room.id, UserId::generate(), Some(Role::Host));
    host.await?;
    let change = records.set_role(&room.id, member.user.id, None).await?;
    assert!(matches!(change, RoleChange::Done(_)), "{change:?}");
    assert!(records.forget_guest(member.user.id).await?);
    Ok(())
}
