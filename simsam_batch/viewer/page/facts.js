// What a stage says of one image: its columns with their meanings, what decides first, and its settings.

import { h, name, printed, shown, wide } from './dom.js'

/** Of a mask, what it is judged by. */
const FIRST = ['confidence', 'iou', 'spectral_gap', 'cut']
/** Of a list, what is shown at once. */
const MOST = 4

/** @param {any} found of `api/images` @param {any} stage of `api/run` */
export function columns(found, stage) {
  /** @type {Record<string, string>} */
  const words = { ...Object.fromEntries(stage.columns.map((/** @type {any} */ each) => [each.name, each.doc])), ...found.docs }
  const place = (/** @type {string} */ of) => (FIRST.includes(of) ? FIRST.indexOf(of) : FIRST.length)
  const given = Object.entries(found.columns).filter(([, value]) => value !== null && value !== undefined).sort(([a], [b]) => place(a) - place(b))
  const empty = Object.keys(found.columns).filter((each) => !given.some(([of]) => of === each))
  const described = given.some(([of]) => words[of])
  return [wide('Columns', h('table', {},
    h('caption', {}, `Row ${found.row}`, found.uri ? [', ', name(found.uri, 120)] : null),
    h('thead', {}, h('tr', {}, ['column', 'value', ...(described ? ['what it is'] : [])].map((each) => h('th', { scope: 'col' }, each)))),
    h('tbody', {}, given.map(([of, value]) => h('tr', {}, h('th', { scope: 'row' }, of), h('td', {}, told(value)), described ? h('td', { class: 'note' }, words[of] ?? '') : null))))),
  empty.length ? h('p', { class: 'note' }, `Without a value: ${empty.join(', ')}`) : null]
}

/** A value in words; a long list folded. @param {any} value @returns {import('./dom.js').Child} */
function told(value) {
  if (typeof value === 'number') return Number.isInteger(value) ? printed(value) : shown(value, 4)
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (Array.isArray(value)) return value.length > MOST ? folded(value) : listed(value)
  if (value !== null && typeof value === 'object') {
    const entries = Object.entries(value)
    const text = entries.map(([key, each]) => `${key} ${plain(each)}`).join(', ')
    return entries.length > MOST ? h('details', {}, h('summary', {}, `${entries.length} values`), text) : text
  }
  return name(String(value), 200)
}

/** @param {any[]} values */
function listed(values) {
  return values.length ? values.map(plain).join(', ') : 'none'
}

/** @param {any[]} values */
function folded(values) {
  const numbers = values.every((each) => typeof each === 'number')
  const range = numbers ? `, ${plain(Math.min(...values))} to ${plain(Math.max(...values))}` : ''
  return h('details', {}, h('summary', {}, `${values.length} values${range}`), listed(values))
}

/** @param {any} value */
function plain(value) {
  if (typeof value === 'number') return Number.isInteger(value) ? printed(value) : shown(value, 4)
  return value !== null && typeof value === 'object' ? JSON.stringify(value) : String(value)
}

/** @param {any} stage of `api/images`, with settings */
export function settings(stage) {
  return [wide('Settings', h('table', {}, h('tbody', {}, Object.entries(stage.settings).map(([of, value]) => h('tr', {}, h('th', { scope: 'row' }, of), h('td', {}, value === null ? '–' : told(value))))))),
    h('h3', {}, 'Resolved'), h('pre', { tabindex: 0, 'aria-label': 'What the settings came to' }, JSON.stringify(stage.resolved, null, 2))]
}
