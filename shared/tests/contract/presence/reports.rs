//! What pods report of themselves.

use super::*;

pub async fn a_report_stands_for_its_lease_and_totals_stay(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (one, two) = (PodId::generate(), PodId::generate());
    here.report(one, "old", DEADLINE, &[("messages", 2)])
        .await?;
    here.report(
        one,
        "{\"a\": 1}",
        DEADLINE,
        &[("messages", 3), ("errors", 1)],
    )
    .await?;
    there
        .report(two, "brief", LEASE, &[("messages", 5)])
        .await?;
    let reports = here.reports().await?;
    assert!(
        reports.live.contains(&"{\"a\": 1}".to_owned()),
        "{reports:?}"
    );
    assert!(!reports.live.contains(&"old".to_owned()), "{reports:?}");
    let lapsed = async {
        while there.reports().await.expect("reports").live.len() > 1 {
            tokio::time::sleep(LEASE / 10).await;
        }
    };
    tokio::time::timeout(DEADLINE, lapsed).await?;
    let totals = there.reports().await?.totals;
    assert_eq!((totals["messages"], totals["errors"]), (10, 1));
    DONE
}
