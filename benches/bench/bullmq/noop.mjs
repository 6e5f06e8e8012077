// No-op jobs through BullMQ: what `noop.rs` does, with the queue that most Node programs use. Prints its figures as JSON.
import { createRequire } from 'node:module';

const [, , modules, redis, jobs, concurrency, together] = process.argv;
const { Queue, Worker } = createRequire(`${modules}/`)('bullmq');

const url = new URL(redis);
const connection = {
  host: url.hostname,
  port: Number(url.port || 6379),
  username: decodeURIComponent(url.username) || undefined,
  password: decodeURIComponent(url.password) || undefined,
  maxRetriesPerRequest: null,
};
const name = `bench-${process.pid}`;
const queue = new Queue(name, { connection });
let done = 0;
let worker;
const finished = new Promise((resolve) => {
  const work = async () => {
    if (++done === Number(jobs)) resolve();
  };
  worker = new Worker(name, work, { connection, concurrency: Number(concurrency), removeOnComplete: { count: 0 } });
});
await Promise.all([queue.waitUntilReady(), worker.waitUntilReady()]);

const cpu = process.cpuUsage();
const began = process.hrtime.bigint();
for (let sent = 0; sent < Number(jobs); sent += Number(together)) {
  const batch = Array.from({ length: Math.min(Number(together), Number(jobs) - sent) }, (_, i) => sent + i);
  await Promise.all(batch.map((n) => queue.add('noop', { n })));
}
await finished;
const seconds = Number(process.hrtime.bigint() - began) / 1e9;
const used = process.cpuUsage(cpu);
console.log(JSON.stringify({ seconds, cpu_us: used.user + used.system }));

await worker.close();
await queue.obliterate({ force: true });
await queue.close();
