"""pycrdt's own provider over websockets, moved by a story: one JSON command a line on standard input, one JSON answer a
line on standard output."""

import asyncio
import json
import sys

import websockets
from pycrdt import Channel, Doc, Provider, Text


class Socket(Channel):
    """What the provider needs of a connection."""

    def __init__(self, socket, path):
        self.socket = socket
        self._path = path

    @property
    def path(self):
        return self._path

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return await self.recv()
        except websockets.ConnectionClosed:
            raise StopAsyncIteration from None

    async def send(self, message):
        await self.socket.send(message)

    async def recv(self):
        while True:
            message = await self.socket.recv()
            # The provider knows sync messages; awareness is another object's.
            if message[:1] == b"\x00":
                return bytes(message)


class Client:
    def __init__(self):
        self.doc = Doc()
        self.doc["t"] = self.text = Text()
        self.task = None
        self.problem = None

    async def run(self, url):
        try:
            async with websockets.connect(url) as socket, Provider(self.doc, Socket(socket, url)):
                await socket.wait_closed()
        except Exception as error:  # told by `look`
            self.problem = repr(error)


clients = {}


async def perform(command):
    name = command.get("client")
    match command["do"]:
        case "open":
            client = clients[name] = Client()
            client.task = asyncio.create_task(client.run(f"{command['url']}/{command['room']}"))
        case "insert":
            clients[name].text += command["text"]
        case "look":
            client = clients[name]
            return {"text": str(client.text), "problems": [client.problem] if client.problem else []}
        case "destroy":
            clients.pop(name).task.cancel()
        case other:
            raise ValueError(f"unknown command {other}")
    return None


async def main():
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        try:
            answer = {"n": command["n"], "ok": await perform(command)}
        except Exception as error:
            answer = {"n": command["n"], "error": repr(error)}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
