// The part of the address behind #: which screen, of what, and how. Every screen can be made from it again.

/**
 * @typedef {object} Address
 * @property {string} screen
 * @property {string[]} path what follows the screen
 * @property {Record<string, string>} query
 */

/** @param {string} [hash] @returns {Address} */
export function here(hash = location.hash) {
  const [path, query = ''] = hash.replace(/^#?\/?/, '').split(/\?(.*)/s)
  const parts = path.split('/').filter(Boolean).map(decoded)
  return { screen: parts[0] ?? '', path: parts.slice(1), query: Object.fromEntries(new URLSearchParams(query)) }
}

/** @param {string} text */
function decoded(text) {
  try { return decodeURIComponent(text) } catch { return text }
}

/**
 * @param {string} screen @param {(string | number)[]} [path]
 * @param {Record<string, string | number | boolean | null | undefined>} [query] what is empty is left out
 */
export function to(screen, path = [], query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '' && value !== false)
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString()
  return `#/${[screen, ...path].map(encodeURIComponent).join('/')}${text ? `?${text}` : ''}`
}

/** Go there; back leads here again. @param {string} hash */
export function go(hash) {
  location.hash = hash
}

/** Where the screen that is shown stands. */
let at = location.hash

/** The screen is made of what the address holds. */
export function arrived() {
  at = location.hash
}

/** Be there without a step for back, and without the screen being made anew. @param {string} hash */
export function stay(hash) {
  moved(hash, 'replaceState')
}

/** Be there with a step for back, and without the screen being made anew. @param {string} hash */
export function step(hash) {
  moved(hash, 'pushState')
}

/** Who has gone elsewhere, whose screen is just not shown yet, is not led back. @param {string} hash @param {'replaceState' | 'pushState'} how */
function moved(hash, how) {
  if (location.hash !== at) return
  history[how](null, '', hash)
  at = location.hash
}
