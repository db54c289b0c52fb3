// A histogram of a number: all rows behind those of the filter, and a range chosen by dragging or by two fields.

import { fill, h, shown, svg } from './dom.js'

const HIGH = 40

/**
 * @typedef {object} Counts as `api/facets` gives them
 * @property {number | null} min
 * @property {number | null} max
 * @property {number[]} edges one more than bins
 * @property {number[]} all
 * @property {number[]} filtered
 * @property {number} missing
 */

/**
 * @param {string} of the column
 * @param {Counts} counts
 * @param {[string, string]} range as the filter has it
 * @param {(low: string, high: string) => void} chosen
 */
export function histogram(of, counts, range, chosen) {
  const { edges, all, filtered } = counts
  if (!all.length || counts.min === null) return [h('p', { class: 'note' }, 'No value yet.')]
  const wide = all.length
  const most = Math.max(1, ...all)
  const bars = (/** @type {number[]} */ heights, /** @type {string} */ kind) => svg('path', { class: kind, d: heights.map((count, i) => count
    ? `M${i + 0.06} ${HIGH}v${-Math.max(1.5, HIGH * count / most)}h.88V${HIGH}z` : '').join('') })
  const [first, last] = [edges[0], edges[wide]]
  const at = (/** @type {number} */ value) => wide * Math.min(1, Math.max(0, (value - first) / (last - first || 1)))
  const veil = svg('rect', { class: 'chosen', y: 0, height: HIGH })
  const sum = filtered.reduce((one, other) => one + other, 0)
  const picture = svg('svg', { viewBox: `0 0 ${wide} ${HIGH}`, preserveAspectRatio: 'none', role: 'img', class: 'histogram',
    'aria-label': `${of}: ${shown(counts.min)} to ${shown(counts.max)}, ${shown(sum)} rows of the filter have a value; most are at ${shown(edges[peak(filtered)])} to ${shown(edges[peak(filtered) + 1])}` },
  veil, bars(all, 'all'), bars(filtered, 'filtered'))
  cover(range[0] === '' ? 0 : at(Number(range[0])), range[1] === '' ? wide : at(Number(range[1])))
  if (range[0] === '' && range[1] === '') cover(0, 0)

  /** @param {number} from @param {number} till */
  function cover(from, till) {
    veil.setAttribute('x', String(Math.min(from, till)))
    veil.setAttribute('width', String(Math.abs(till - from)))
  }

  let from = -1
  const place = (/** @type {PointerEvent} */ event) => {
    const box = picture.getBoundingClientRect()
    return Math.min(wide, Math.max(0, wide * (event.clientX - box.left) / box.width))
  }
  picture.addEventListener('pointerdown', (event) => {
    from = place(event)
    picture.setPointerCapture(event.pointerId)
    event.preventDefault()
  })
  picture.addEventListener('pointermove', (event) => { if (from >= 0) cover(from, place(event)) })
  picture.addEventListener('pointercancel', () => { from = -1 })
  picture.addEventListener('pointerup', (event) => {
    if (from < 0) return
    const ends = [from, place(event)].sort((one, other) => one - other)
    from = -1
    // whole bins, and a click is one
    const low = Math.min(wide - 1, Math.floor(ends[0]))
    const high = Math.max(low + 1, Math.ceil(ends[1]))
    chosen(low === 0 ? '' : plain(edges[low]), high === wide ? '' : plain(edges[high]))
  })

  const end = (/** @type {string} */ which, /** @type {string} */ value, /** @type {number} */ hint) =>
    h('label', {}, h('span', { class: 'hidden' }, `${of} `), `${which} `, h('input', { type: 'text', inputmode: 'decimal', size: 6, value, placeholder: shown(hint), onchange: set }))
  const fields = h('div', { class: 'range' }, end('from', range[0], counts.min), end('to', range[1], /** @type {number} */ (counts.max)))
  const fault = h('p', { class: 'fault', role: 'alert', hidden: true })
  const inputs = fields.querySelectorAll('input')

  function set() {
    const [low, high] = Array.from(inputs, (each) => each.value.trim())
    const wrong = [low, high].find((each) => each && !Number.isFinite(Number(each)))
    fault.hidden = wrong === undefined
    fill(fault, wrong === undefined ? [] : `${wrong.slice(0, 20)} is no number.`)
    if (wrong === undefined) chosen(low, high)
  }
  return [picture, fields, fault, counts.missing ? h('p', { class: 'note' }, `${shown(counts.missing)} without a value`) : null]
}

/** @param {number[]} counts */
function peak(counts) {
  return counts.indexOf(Math.max(...counts))
}

/** An edge with as many digits as are needed. @param {number} value */
function plain(value) {
  return String(Number(value.toPrecision(6)))
}
