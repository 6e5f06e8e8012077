// Stock Yjs providers, moved by a story: one JSON command a line on standard input, one JSON answer a line on standard
// output. The providers are the published packages, unmodified; they lie where ATELIER_CLIENTS says.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const require = createRequire(process.env.ATELIER_CLIENTS + '/package.json')
const Y = require('yjs')
const WebSocket = require('ws')
const { Awareness } = require('y-protocols/awareness')

// A socket that remembers how the server answered it: providers tell nobody.
const socketsOf = (refusals, opened) =>
  class extends WebSocket {
    constructor (url, protocols) {
      super(url, protocols)
      opened.push(url)
      this.on('unexpected-response', (_request, response) => {
        refusals.push(response.statusCode)
        response.resume()
        this.emit('error', new Error(`refused with ${response.statusCode}`))
        this.emit('close', 1006, Buffer.alloc(0))
      })
      this.on('error', () => {})
    }
  }

const clients = new Map()
const sockets = new Map()
const problems = []
process.on('uncaughtException', error => problems.push(String(error.stack ?? error)))
process.on('unhandledRejection', error => problems.push(String(error?.stack ?? error)))

// `observer`: it looks on, and has nothing to show of itself.
function yWebsocket (which, { url, room, params, protocols, observer }) {
  const { WebsocketProvider } = require(which)
  const doc = new Y.Doc()
  const awareness = new Awareness(doc)
  if (observer) awareness.setLocalState(null)
  const client = { doc, refusals: [], opened: [], events: [] }
  const provider = new WebsocketProvider(url, room, doc, {
    params: params ?? {},
    protocols: protocols ?? [],
    WebSocketPolyfill: socketsOf(client.refusals, client.opened),
    awareness,
    disableBc: true
  })
  provider.on('status', ({ status }) => client.events.push(status))
  provider.on('sync', state => client.events.push(state ? 'synced' : 'unsynced'))
  return Object.assign(client, {
    awareness: provider.awareness,
    synced: () => provider.synced,
    connect: () => provider.connect(),
    disconnect: () => provider.disconnect(),
    destroy: () => provider.destroy()
  })
}

function hocuspocus (which, { url, room, token, socket, session }) {
  const { HocuspocusProvider, HocuspocusProviderWebsocket } = require(which)
  const doc = new Y.Doc()
  const client = { doc, refusals: [], opened: [], events: [], said: [] }
  const key = socket ?? Symbol('own')
  if (!sockets.has(key)) {
    sockets.set(key, new HocuspocusProviderWebsocket({
      url,
      WebSocketPolyfill: socketsOf(client.refusals, client.opened),
      delay: 100,
      minDelay: 50,
      maxDelay: 500
    }))
  }
  const websocketProvider = sockets.get(key)
  const provider = new HocuspocusProvider({
    websocketProvider,
    name: room,
    document: doc,
    token: token ?? null,
    ...(session ? { sessionAwareness: true } : {}),
    onAuthenticated: () => client.events.push('authenticated'),
    onAuthenticationFailed: ({ reason }) => client.events.push(`denied: ${reason}`),
    onSynced: () => client.events.push('synced'),
    onStateless: ({ payload }) => client.said.push(payload)
  })
  provider.attach?.()
  return Object.assign(client, {
    awareness: provider.awareness,
    synced: () => provider.synced,
    unsynced: () => provider.unsyncedChanges,
    scope: () => provider.authorizedScope,
    say: text => provider.sendStateless(text),
    connect: () => websocketProvider.connect(),
    disconnect: () => websocketProvider.disconnect(),
    destroy: () => {
      provider.destroy()
      if (!socket) websocketProvider.destroy()
    }
  })
}

const text = client => client.doc.getText('t')
const hex = bytes => Buffer.from(bytes).toString('hex')

const commands = {
  open ({ client, kind, ...rest }) {
    const make = kind.startsWith('hocuspocus') ? hocuspocus : yWebsocket
    clients.set(client.name, Object.assign(client, make(kind, rest)))
  },
  insert: ({ client, at, text: inserted }) => text(client).insert(at ?? text(client).length, inserted),
  remove: ({ client, at, length }) => text(client).delete(at, length),
  show: ({ client, state }) => client.awareness.setLocalState(state),
  say: ({ client, text }) => client.say(text),
  connect: ({ client }) => client.connect(),
  disconnect: ({ client }) => client.disconnect(),
  destroy ({ client }) {
    client.destroy()
    clients.delete(client.name)
  },
  // All that a story may want to know.
  look: ({ client }) => ({
    text: text(client).toString(),
    synced: client.synced(),
    unsynced: client.unsynced?.() ?? 0,
    scope: client.scope?.() ?? null,
    refusals: client.refusals,
    opened: client.opened.length,
    events: client.events,
    said: client.said ?? [],
    states: Object.fromEntries(client.awareness.getStates()),
    id: client.doc.clientID,
    problems
  }),
  // The whole state as an update, as a JSON client sends it.
  state: ({ client }) => hex(Y.encodeStateAsUpdate(client.doc)),
  // What updates from anywhere make.
  read ({ updates }) {
    const doc = new Y.Doc()
    for (const update of updates) Y.applyUpdate(doc, Buffer.from(update, 'hex'))
    return doc.getText('t').toString()
  },
  // An update of somebody without a connection.
  write ({ text: inserted }) {
    const doc = new Y.Doc()
    doc.getText('t').insert(0, inserted)
    return hex(Y.encodeStateAsUpdate(doc))
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { n, do: name, client: known, ...rest } = JSON.parse(line)
  let answer
  try {
    const client = known === undefined ? undefined : clients.get(known) ?? { name: known }
    answer = { n, ok: (await commands[name]({ ...rest, client })) ?? null }
  } catch (error) {
    answer = { n, error: String(error.stack ?? error) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
process.exit(0)
