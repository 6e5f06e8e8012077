// A Hocuspocus server as its documentation starts one, with its Redis extension where a URL is given. Prints its address.
import { createRequire } from 'node:module';

const [, , modules, port, redis] = process.argv;
const require = createRequire(`${modules}/`);
const { Server } = require('@hocuspocus/server');

const extensions = [];
if (redis) {
  const { Redis } = require('@hocuspocus/extension-redis');
  const Client = require('ioredis');
  extensions.push(new Redis({ createClient: () => new Client(redis), prefix: `bench-${process.ppid}` }));
}
const server = new Server({ address: '127.0.0.1', port: Number(port), quiet: true, extensions });
await server.listen();
console.log(`127.0.0.1:${port}`);
