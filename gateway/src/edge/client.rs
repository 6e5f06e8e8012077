//! Where a request comes from, who sends it, and which rooms it may enter.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::room::{Access, Retention, Role, Room, RoomChoice, RoomKind};
use atelier_shared::ports::{RoomCreation, RoomQuota};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use chrono::{Duration, SubsecRound, Utc};
use tokio::time::Instant;

use super::extract::only;
use super::problem::{Kind, Problem};
use super::state::App;
use crate::config::GatewayConfig;
use crate::identity::Principal;
use crate::room::sent_out;

/// A room younger than this counts against its maker's address, empty or not.
const ROOM_LIMIT_WINDOW: Duration = Duration::hours(24);
/// Somebody who connects to a room that is just being removed waits for so long, and looks so often, until it can be made anew.
const REMOVAL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(8);
const REMOVAL_LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// The client's address, as limits count it: IPv4 as it is, IPv6 by its /64.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub String);

impl ClientAddress {
    /// The peer, or, where the peer is a trusted proxy, the last hop of `X-Forwarded-For` that is not one.
    pub fn of(config: &GatewayConfig, peer: IpAddr, headers: &HeaderMap) -> Self {
        let mut address = peer;
        if config.is_trusted_proxy(peer) {
            let hops = headers
                .get_all("x-forwarded-for")
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .map(str::trim)
                .collect::<Vec<_>>();
            for hop in hops.into_iter().rev() {
                // What a trusted proxy did not write can't be read as an address: stop at the last that could.
                let Some(hop) = parse_hop(hop) else { break };
                address = hop;
                if !config.is_trusted_proxy(hop) {
                    break;
                }
            }
        }
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `2001:db8::1` or `[2001:db8::1]:5`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    hop.parse::<IpAddr>()
        .or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
}

impl FromRequestParts<App> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|ConnectInfo(address)| address.ip())
            .ok_or_else(Problem::internal)?;
        Ok(Self::of(&app.config, peer, &parts.headers))
    }
}

/// The token of `Authorization: Bearer`, if there is that header. Another scheme is refused.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    // Of two, nobody could say which one counts.
    let value = only(headers, &header::AUTHORIZATION);
    let token = value
        .and_then(|value| value.to_str().ok())
        .and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| token.trim())
                .filter(|token| !token.is_empty())
        });
    token.map(Some).ok_or_else(|| {
        Problem::new(
            Kind::TokenInvalid,
            "Authorization must be, once: Bearer <token>",
        )
    })
}

/// Whose token the request carries, by its signature, as the limits found it: a signature is checked once a request.
#[derive(Debug, Clone)]
pub struct Verified(pub Principal);

/// Somebody with a token. As `Option` by [`MaybePrincipal`].
#[derive(Debug, Clone)]
pub struct Authenticated(pub Principal);

/// Somebody with a token, or somebody without one; a bad token is refused either way.
#[derive(Debug, Clone)]
pub struct MaybePrincipal(pub Option<Principal>);

/// The administrator: `ATELIER_ADMIN_TOKEN`, or an account flagged so.
#[derive(Debug, Clone)]
pub struct Administrator(pub Principal);

impl FromRequestParts<App> for MaybePrincipal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if let Some(Verified(principal)) = parts.extensions.get() {
            app.identity.still_stands(principal).await?;
            return Ok(Self(Some(principal.clone())));
        }
        match bearer(&parts.headers)? {
            Some(token) => Ok(Self(Some(app.identity.authenticate(token).await?))),
            None => Ok(Self(None)),
        }
    }
}

impl FromRequestParts<App> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let MaybePrincipal(principal) = MaybePrincipal::from_request_parts(parts, app).await?;
        principal.map(Self).ok_or_else(Problem::unauthenticated)
    }
}

impl FromRequestParts<App> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Authenticated(principal) = Authenticated::from_request_parts(parts, app).await?;
        if principal.is_admin {
            return Ok(Self(principal));
        }
        Err(Problem::forbidden("This is for administrators."))
    }
}

/// May this person enter the room, and as what? Unknown room: 404; not without a token: 401; not at all: 403.
pub async fn may_enter(
    app: &App,
    room: &RoomId,
    principal: Option<&Principal>,
) -> Result<(Room, Role), Problem> {
    let room = app.backends.records.room(room).await?;
    let room = room.ok_or_else(|| Problem::not_found("room"))?;
    let role = role_in(app, &room, principal).await?;
    match (role, principal.is_some_and(|p| !p.is_anonymous())) {
        (Some(role), _) => Ok((room, role)),
        (None, _) if room.access == Access::Open => Err(sent_out_of_room()),
        (None, false) => Err(Problem::unauthenticated()),
        (None, true) => Err(Problem::forbidden("You are not a member of this room.")),
    }
}

/// [`may_enter`], for members only: that the room is open to all is not enough.
pub async fn may_take_part(
    app: &App,
    room: &RoomId,
    principal: Option<&Principal>,
) -> Result<(Room, Role), Problem> {
    let principal = principal.filter(|principal| !principal.is_anonymous());
    let principal = principal.ok_or_else(Problem::unauthenticated)?;
    let (room, role) = may_enter(app, room, Some(principal)).await?;
    let given = app.backends.records.role(&room.id, principal.user_id);
    let given = given.await?;
    if principal.is_admin || given.is_some() {
        return Ok((room, role));
    }
    Err(Problem::forbidden("You are not a member of this room."))
}

/// [`may_enter`], with at least this role.
pub async fn may(
    app: &App,
    room: &RoomId,
    principal: Option<&Principal>,
    least: Role,
) -> Result<(Room, Role), Problem> {
    let (room, role) = may_enter(app, room, principal).await?;
    if role >= least {
        return Ok((room, role));
    }
    if principal.is_none_or(Principal::is_anonymous) {
        return Err(Problem::unauthenticated());
    }
    Err(Problem::forbidden(format!(
        "This needs the role {}; yours is {}.",
        least.as_str(),
        role.as_str()
    )))
}

/// A host sent them out, of a room that is open to everybody else.
pub fn sent_out_of_room() -> Problem {
    Problem::forbidden("A host sent you out of this room; it lets you in again after ten minutes.")
}

/// A role that was given wins over what the room's openness would give, also where it is less; who was sent out has none.
pub async fn role_in(
    app: &App,
    room: &Room,
    principal: Option<&Principal>,
) -> Result<Option<Role>, Problem> {
    if let Some(principal) = principal {
        if principal.is_admin {
            return Ok(Some(Role::Host));
        }
        let given = app.backends.records.role(&room.id, principal.user_id);
        if let Some(role) = given.await? {
            return Ok(Some(role));
        }
        if room.access == Access::Open
            && sent_out::is_sent_out(&app.backends, &room.id, principal.user_id).await?
        {
            return Ok(None);
        }
    }
    Ok((room.access == Access::Open).then_some(Role::Editor))
}

/// The room, made if nobody has (PROTOCOL.md "Addresses"): open and ephemeral, where ANONYMOUS_ROOMS allows it.
pub async fn make_room_by_connecting(
    app: &App,
    id: &RoomId,
    address: &ClientAddress,
    principal: Option<&Principal>,
) -> Result<Room, Problem> {
    if let Some(room) = app.backends.records.room(id).await? {
        return Ok(room);
    }
    if !app.config.anonymous_rooms() {
        return Err(Problem::not_found("room"));
    }
    let maker = principal.and_then(Principal::row);
    let patience_ends = Instant::now() + REMOVAL_PATIENCE;
    let mut removed_meanwhile = false;
    loop {
        // One of a crowd that comes at once makes it; the others find it made.
        let turn = app.making_room(&address.0).await;
        if let Some(room) = app.backends.records.room(id).await? {
            return Ok(room);
        }
        let choice = RoomChoice {
            kind: Some(RoomKind::Open),
            retention: Some(Retention::Ephemeral),
            ..RoomChoice::default()
        };
        let now = Utc::now().trunc_subsecs(6);
        let room = Room::new(id.clone(), choice, maker, Some(address.0.clone()), now);
        if make_room_in_turn(app, &room, address).await? {
            return Ok(room);
        }
        drop(turn);
        // Somebody else made it in between.
        if let Some(room) = app.backends.records.room(id).await? {
            return Ok(room);
        }
        // Or an earlier room of this name is just being removed, and the name is free in a moment.
        if app.backends.records.removal_of(id).await?.is_some() {
            removed_meanwhile = false;
        } else if removed_meanwhile {
            return Err(Problem::not_found("room"));
        } else {
            removed_meanwhile = true;
            continue;
        }
        if Instant::now() >= patience_ends {
            let text = "An earlier room under this id is just being removed; come back.";
            return Err(Problem::new(Kind::Unavailable, text));
        }
        tokio::time::sleep(REMOVAL_LOOK_EVERY).await;
    }
}

/// Makes the room if its address may hold one more. False: the id is taken.
pub async fn make_room(app: &App, room: &Room, address: &ClientAddress) -> Result<bool, Problem> {
    // One at a time waits in the records for those of other gateways.
    let _turn = app.making_room(&address.0).await;
    make_room_in_turn(app, room, address).await
}

async fn make_room_in_turn(
    app: &App,
    room: &Room,
    address: &ClientAddress,
) -> Result<bool, Problem> {
    let quota = may_make_room(app, room, address).await?;
    let made = app.backends.records.create_room_within(room, Some(quota));
    match made.await? {
        RoomCreation::Made => Ok(true),
        RoomCreation::Taken => Ok(false),
        RoomCreation::Full => Err(room_limit(app)),
    }
}

/// May this address hold one more room, as far as can be told before it is made? And of how many made lately.
pub async fn may_make_room(
    app: &App,
    room: &Room,
    address: &ClientAddress,
) -> Result<RoomQuota, Problem> {
    let limit = u64::from(app.config.rooms_per_address);
    let active: Vec<RoomId> = app.occupancy.get().await?.keys().cloned().collect();
    let since = room.created_at - ROOM_LIMIT_WINDOW;
    let records = &app.backends.records;
    let held = records
        .count_rooms_of_address(&address.0, since, &active)
        .await?;
    if held.young + held.older >= limit {
        return Err(room_limit(app));
    }
    Ok(RoomQuota {
        since,
        most: limit - held.older,
    })
}

fn room_limit(app: &App) -> Problem {
    let limit = app.config.rooms_per_address;
    Problem::new(
        Kind::RoomLimit,
        format!("An address holds at most {limit} rooms that are active or younger than 24 h."),
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::config::tests::parse;

    fn address(proxies: &str, peer: &str, forwarded: &[&str]) -> String {
        let config = if proxies.is_empty() {
            parse(&[]).unwrap()
        } else {
            parse(&[&format!("--trusted-proxies={proxies}")]).unwrap()
        };
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        ClientAddress::of(&config, peer.parse().unwrap(), &headers).0
    }

    #[test]
    fn a_stranger_cannot_choose_an_address() {
        assert_eq!(address("", "192.0.2.1", &["198.51.100.9"]), "192.0.2.1");
        assert_eq!(
            address("10.0.0.0/8", "192.0.2.1", &["198.51.100.9"]),
            "192.0.2.1"
        );
        // Behind one trusted proxy, what the client wrote itself stands to the left.
        assert_eq!(
            address("10.0.0.0/8", "10.0.0.1", &["198.51.100.9, 203.0.113.7"]),
            "203.0.113.7"
        );
    }

    #[test]
    fn trusted_hops_are_walked_through() {
        let hops = ["203.0.113.7", "10.0.0.2, 10.0.0.3:4711"];
        assert_eq!(address("10.0.0.0/8", "10.0.0.1", &hops), "203.0.113.7");
        assert_eq!(
            address("10.0.0.0/8", "::ffff:10.0.0.1", &hops),
            "203.0.113.7"
        );
        assert_eq!(address("10.0.0.0/8", "10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(address("10.0.0.0/8", "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn ipv6_counts_by_its_64() {
        assert_eq!(
            address("", "2001:db8:1:2:3:4:5:6", &[]),
            "2001:db8:1:2::/64"
        );
        assert_eq!(
            address("::1", "::1", &["[2001:db8:1:2:aaaa::1]:80"]),
            "2001:db8:1:2::/64"
        );
    }

    #[test]
    fn only_bearer_tokens_are_taken() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", HeaderValue::from_static(value));
            bearer(&headers).map(|token| token.map(str::to_owned))
        };
        assert_eq!(with("Bearer abc").unwrap().as_deref(), Some("abc"));
        assert_eq!(with("bearer abc").unwrap().as_deref(), Some("abc"));
        assert!(with("Basic abc").is_err() && with("Bearer ").is_err() && with("x").is_err());
        assert_eq!(bearer(&HeaderMap::new()).unwrap(), None);
        let mut twice = HeaderMap::new();
        twice.append("authorization", HeaderValue::from_static("Bearer a"));
        twice.append("authorization", HeaderValue::from_static("Bearer b"));
        assert_eq!(bearer(&twice).unwrap_err().kind, Kind::TokenInvalid);
    }
}
