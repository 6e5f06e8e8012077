// A Socket.IO server that passes each room's messages on, with its Redis adapter where a URL is given. Prints its address.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const [, , modules, port, redis] = process.argv;
const require = createRequire(`${modules}/`);
const { Server } = require('socket.io');

const options = { transports: ['websocket'] };
if (redis) {
  const { createAdapter } = require('@socket.io/redis-adapter');
  const Client = require('ioredis');
  const publisher = new Client(redis);
  options.adapter = createAdapter(publisher, publisher.duplicate(), { key: `bench-${process.ppid}` });
}
const http = createServer();
const io = new Server(http, options);
io.on('connection', (socket) => {
  const { room } = socket.handshake.query;
  socket.join(room);
  socket.on('message', (text) => socket.to(room).emit('message', text));
});
http.listen(Number(port), '127.0.0.1', () => console.log(`127.0.0.1:${port}`));
