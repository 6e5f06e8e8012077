//! The processes and stores of the rounds, and what befalls them.

use anyhow::Context;
use atelier_shared::Mode;
use rustix::process::Signal;
use tokio::sync::Mutex;

use super::history::History;
use super::plan::{Fault, Strike};
use crate::harness::proxy::{Proxy, Weather};
use crate::harness::stores::{OwnRedis, Stores};
use crate::harness::{Address, Cluster, Door, Options, Story, Told};

pub struct Stage {
    cluster: Cluster,
    stores: Option<Around>,
}

/// What stands between a cluster and its stores.
struct Around {
    redis: Mutex<OwnRedis>,
    before_redis: Proxy,
    before_mongo: Proxy,
}

impl Stage {
    pub async fn build(story: &Story) -> anyhow::Result<Self> {
        let options = Options::default()
            .gateways(2)
            .workers(1)
            .set("MESSAGE_RATE", 100_000)
            .set("MESSAGE_BURST", 100_000)
            .set("REQUEST_TIMEOUT", 5)
            // Small: whoever dozes falls off, and reads the log.
            .set("ROOM_RING_BYTES", 65_536);
        if story.mode() == Mode::Embedded {
            let cluster = story.cluster(options).await?;
            return Ok(Self {
                cluster,
                stores: None,
            });
        }
        let redis = OwnRedis::start().await?;
        let mut stores = Stores::make().await?;
        stores.redis = redis.url()?;
        let before_redis = Proxy::into_url(&mut stores.redis, 6379).await?;
        // A member of a replica set names its own address; the driver must not go there.
        stores.mongo.set_query(Some("directConnection=true"));
        let before_mongo = Proxy::into_url(&mut stores.mongo, 27017).await?;
        Ok(Self {
            cluster: story.cluster(options.stores(stores)).await?,
            stores: Some(Around {
                redis: Mutex::new(redis),
                before_redis,
                before_mongo,
            }),
        })
    }

    pub fn door(&self, room: &str, gateway: usize) -> Door {
        let gateway = self.cluster.gateway(gateway).address();
        Door::new(gateway, Address::Plain, room)
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Strikes, and when it is over everything runs again.
    pub async fn strike(&self, strike: &Strike, history: &History) -> Told {
        tokio::time::sleep(strike.after).await;
        history.note("world", format_args!("{:?}", strike.fault));
        self.befall(strike).await.context("the misfortune itself")?;
        history.note("world", format_args!("{:?} is over", strike.fault));
        Ok(())
    }

    async fn befall(&self, strike: &Strike) -> Told {
        let lasts = tokio::time::sleep(strike.lasts);
        let around = || self.stores.as_ref().context("embedded mode has no stores");
        match strike.fault {
            Fault::KillGateway(n) => {
                let gateway = self.cluster.gateway(n);
                gateway.kill().await?;
                gateway.restart().await
            }
            Fault::KillWorker => {
                let worker = self.cluster.worker(0);
                worker.kill().await?;
                lasts.await;
                worker.restart().await
            }
            Fault::FreezeGateway(n) => {
                let gateway = self.cluster.gateway(n);
                gateway.signal(Signal::STOP).await?;
                lasts.await;
                gateway.signal(Signal::CONT).await
            }
            Fault::FreezeWorker => {
                let worker = self.cluster.worker(0);
                worker.signal(Signal::STOP).await?;
                lasts.await;
                worker.signal(Signal::CONT).await
            }
            Fault::EmptyRedis => around()?.redis.lock().await.empty().await,
            Fault::RestartRedisEmpty => around()?.redis.lock().await.lose_everything().await,
            Fault::RollRedisBack => {
                let mut redis = around()?.redis.lock().await;
                redis.remember().await?;
                lasts.await;
                redis.roll_back().await
            }
            Fault::CutRedis => {
                around()?.before_redis.set(Weather::Cut);
                lasts.await;
                around()?.before_redis.set(Weather::Pass);
                Ok(())
            }
            Fault::SilenceMongo | Fault::CutMongo => {
                let weather = match strike.fault {
                    Fault::CutMongo => Weather::Cut,
                    _ => Weather::Blackhole,
                };
                around()?.before_mongo.set(weather);
                lasts.await;
                around()?.before_mongo.set(Weather::Pass);
                Ok(())
            }
        }
    }
}
