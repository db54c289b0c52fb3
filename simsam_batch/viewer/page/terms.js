// The terms of a filter, found and changed in its text; what they mean, the server knows.

/**
 * @typedef {object} Term
 * @property {number} start in the text
 * @property {number} end behind its last character
 * @property {boolean} turned whether a minus is before it
 * @property {string} name without quotes
 * @property {string} does `<`, `<=`, `>`, `>=`, `=`, `:`, `~`, `?` or nothing
 * @property {string[]} values without quotes
 */

const DOES = ['<=', '>=', '<', '>', '=', ':', '~', '?']

/** @param {string} text @param {number} at @param {string} ends @returns {[string, number]} the word, and where it ends */
function word(text, at, ends) {
  let found = ''
  if (text[at] !== '"') {
    while (at < text.length && !ends.includes(text[at])) found += text[at++]
    return [found, at]
  }
  for (at += 1; at < text.length && text[at] !== '"'; at++) {
    if (text[at] === '\\' && '"\\'.includes(text[at + 1] ?? ' ')) at += 1
    found += text[at]
  }
  return [found, Math.min(at + 1, text.length)]
}

/** All terms; a text that is no filter gives terms nevertheless. @param {string} text @returns {Term[]} */
export function terms(text) {
  const found = []
  for (let at = 0; at < text.length;) {
    if (/\s/.test(text[at])) { at += 1; continue }
    const start = at
    const turned = text[at] === '-'
    let [name, end] = word(text, at + Number(turned), ' \t\r\n<>=:~?,')
    const does = DOES.find((each) => text.startsWith(each, end)) ?? ''
    end += does.length
    const values = []
    while (does && end < text.length) {
      const [value, behind] = word(text, end, ' \t\r\n,')
      values.push(value)
      end = behind
      if (text[end] !== ',') break
      end += 1
    }
    // whatever else is there belongs to it, so that the next term begins behind a space
    while (end < text.length && !/\s/.test(text[end])) end += 1
    found.push({ start, end, turned, name, does, values })
    at = end
  }
  return found
}

/** A word as it stands in a filter. @param {string} text */
export function quoted(text) {
  return text && !/[\s,"<>=:~?]/.test(text) && !text.startsWith('-') ? text : `"${text.replace(/[\\"]/g, '\\$&')}"`
}

/** @param {string} name @param {string[]} values */
function oneOf(name, values) {
  return `${quoted(name)}:${values.map(quoted).join(',')}`
}

/** The words that a filter asks of a column. @param {string} text @param {string} name */
export function wordsOf(text, name) {
  return terms(text).filter((term) => term.name === name && term.does === ':' && !term.turned).flatMap((term) => term.values)
}

/** The filter with a word of a column added, or taken away if it is there. @param {string} text @param {string} name @param {string} value */
export function toggled(text, name, value) {
  const now = wordsOf(text, name)
  const then = now.includes(value) ? now.filter((each) => each !== value) : [...now, value]
  return replaced(text, (term) => term.name === name && term.does === ':' && !term.turned, then.length ? oneOf(name, then) : '')
}

/** The filter with a range of a column in place of what it asked of it; no ends: without. @param {string} text @param {string} name @param {string} low @param {string} high */
export function ranged(text, name, low, high) {
  return replaced(text, (term) => term.name === name && !term.turned && term.does !== '?', low || high ? `${quoted(name)}:${low}..${high}` : '')
}

/** The ends of the range that a filter asks of a column. @param {string} text @param {string} name @returns {[string, string]} */
export function rangeOf(text, name) {
  let ends = /** @type {[string, string]} */ (['', ''])
  for (const term of terms(text)) {
    if (term.name !== name || term.turned) continue
    const value = term.values[0] ?? ''
    if (term.does === ':' && value.includes('..')) ends = /** @type {[string, string]} */ (value.split('..').slice(0, 2))
    else if (term.does.startsWith('<')) ends[1] = value
    else if (term.does.startsWith('>')) ends[0] = value
  }
  return ends
}

/** @param {string} text @param {(term: Term) => boolean} which @param {string} by */
function replaced(text, which, by) {
  let done = false
  const parts = terms(text).map((term) => {
    if (!which(term)) return text.slice(term.start, term.end)
    const first = !done
    done = true
    return first ? by : ''
  })
  return [...parts, done ? '' : by].filter(Boolean).join(' ')
}
