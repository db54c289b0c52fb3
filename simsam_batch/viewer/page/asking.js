// Questions to the server, below the page's own address, whatever prefix a proxy gives it.

/** A refusal, or no answer at all. */
export class AskingError extends Error {
  /** @param {string} message @param {number} status 0: no answer @param {any} more */
  constructor(message, status, more = {}) {
    super(message)
    this.status = status
    this.more = more
  }
}

/** @typedef {Record<string, string | number | boolean | null | undefined>} Query */

/** @param {string} path @param {Query} [query] */
export function url(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '')
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString()
  return text ? `${path}?${text}` : path
}

/** @param {string} path @param {RequestInit} [options] */
async function asked(path, options = {}) {
  let answer
  try {
    answer = await fetch(path, { credentials: 'same-origin', priority: 'high', ...options })
  } catch (error) {
    if (/** @type {Error} */ (error).name === 'AbortError') throw error
    throw new AskingError('simsam view does not answer. Is it still running, and the ssh connection up?', 0)
  }
  if (answer.ok) return answer
  let found = {}
  try { found = await answer.json() } catch { /* a text, then */ }
  const why = answer.status === 401 ? 'This page belongs to a session that has ended: open the link that simsam view has printed last.'
    : /** @type {any} */ (found).error ?? `The server refused this (${answer.status}).`
  throw new AskingError(why, answer.status, found)
}

/** JSON. @param {string} path @param {Query} [query] @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function ask(path, query, signal) {
  return (await asked(url(path, query), { signal })).json()
}

/**
 * Raw values of an array.
 * @param {string} path @param {Query} [query] @param {AbortSignal} [signal]
 * @returns {Promise<{values: Float32Array | Uint8Array | Int16Array | Int32Array, shape: number[], headers: Headers}>}
 */
export async function askArray(path, query, signal) {
  return arrayOf(await asked(url(path, query), { signal }))
}

/** @param {Response} answer */
async function arrayOf(answer) {
  const buffer = await answer.arrayBuffer()
  const dtype = answer.headers.get('X-Dtype')
  const shape = (answer.headers.get('X-Shape') ?? '').split(',').filter(Boolean).map(Number)
  const kinds = { uint8: Uint8Array, bool: Uint8Array, int16: Int16Array, int32: Int32Array, float32: Float32Array }
  const values = dtype === 'float16' ? halves(new Uint16Array(buffer)) : new kinds[/** @type {keyof typeof kinds} */ (dtype)](buffer)
  return { values, shape, headers: answer.headers }
}

/** @param {'POST' | 'DELETE'} method @param {string} path @param {any} [body] @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function tell(method, path, body, signal) {
  return (await posted(method, path, body, signal)).json()
}

/** @param {'POST' | 'DELETE'} method @param {string} path @param {any} [body] @param {AbortSignal} [signal] */
function posted(method, path, body, signal) {
  const options = body === undefined && method === 'DELETE' ? {} : { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body ?? {}) }
  return asked(path, { method, signal, ...options })
}

/** What a question of `live` gives. @param {string} path @param {any} body @param {AbortSignal} signal @param {(words: string) => void} [busy] is told why it waits @returns {Promise<any>} */
export async function askLive(path, body, signal, busy) {
  return (await live(path, body, signal, busy)).json()
}

/** The same of an array. @param {string} path @param {any} body @param {AbortSignal} signal @param {(words: string) => void} [busy] */
export async function askLiveArray(path, body, signal, busy) {
  return arrayOf(await live(path, body, signal, busy))
}

/** While the features are made ready it is asked again. @param {string} path @param {any} body @param {AbortSignal} signal @param {(words: string) => void} [busy] */
async function live(path, body, signal, busy = () => {}) {
  for (;;) {
    const answer = await posted('POST', path, body, signal)
    if (answer.status !== 202) return answer
    busy((await answer.json()).busy)
    await new Promise((done) => setTimeout(done, 1000))
    signal.throwIfAborted()
  }
}

/** Half precision to single. @param {Uint16Array} bits */
export function halves(bits) {
  const found = new Float32Array(bits.length)
  for (let i = 0; i < bits.length; i++) {
    const sign = bits[i] & 0x8000 ? -1 : 1
    const exponent = (bits[i] >> 10) & 31
    const fraction = bits[i] & 1023
    if (exponent === 0) found[i] = sign * fraction * 2 ** -24
    else if (exponent === 31) found[i] = fraction ? NaN : sign * Infinity
    else found[i] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
  }
  return found
}

/** A picture, or the server's words why there is none. @param {string} path @param {Query} [query] @param {AbortSignal} [signal] */
export async function askPicture(path, query, signal) {
  return createImageBitmap(await (await asked(url(path, query), { signal })).blob())
}
