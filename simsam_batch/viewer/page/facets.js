// The facets: of every column how many rows have which value, all and those of the filter; a click asks for it.

import { ask } from './asking.js'
import { fill, h, name, shown } from './dom.js'
import { histogram } from './histogram.js'
import { failed, loading } from './states.js'
import { ranged, rangeOf, toggled, wordsOf } from './terms.js'

const OPEN_NUMBERS = 3
const AGAIN_MS = 1000
const FIRST = ['status', 'error_type', 'flag', 'label']
const OPEN_FIRST = ['status', 'flag', 'error_type', 'label']

/** @typedef {{name: string, kind: string, doc?: string, kept?: boolean}} Column */

/**
 * @param {object} given
 * @param {AbortSignal} given.signal
 * @param {string} given.stage
 * @param {Column[]} given.columns of it, with `flag` and `label` if it has them
 * @param {(q: string) => void} given.changed a term has been added or taken away
 * @param {(complete: boolean) => void} given.reading told whether the counts are of all rows
 */
export function facets({ signal, stage, columns, changed, reading }) {
  /** @type {Map<string, {details: HTMLDetailsElement, body: HTMLElement, found: any, of: string | null}>} */
  const parts = new Map()
  let q = ''
  let last = new AbortController()
  // the pictures come first: nothing is counted before a filter is shown, and then all by one request
  let shows = false
  /** @type {Set<string>} */
  const waiting = new Set()
  let timer = 0
  const order = [...columns].sort((one, other) => rank(one) - rank(other))
  const open = [...OPEN_FIRST, ...order.filter((each) => isNumber(each)).slice(0, OPEN_NUMBERS).map((each) => each.name)]
  const element = h('div', { class: 'facets' }, order.map((column) => {
    const body = h('div', { class: 'facet' })
    const details = h('details', { ontoggle: () => { if (details.open) soon([column.name]) } },
      h('summary', { title: column.doc || null }, name(column.name, 40), h('span', { class: 'asked', hidden: true }, 'asked')), body)
    details.open = open.includes(column.name)
    parts.set(column.name, { details, body, found: null, of: null })
    return details
  }))

  /** @param {string[]} names of columns to be counted when all that is done now is done */
  function soon(names) {
    for (const each of names) waiting.add(each)
    clearTimeout(timer)
    if (!shows) return
    timer = setTimeout(() => {
      const all = [...waiting]
      waiting.clear()
      fetchThose(all)
    })
  }

  /** @param {string[]} names that have not been asked for with this filter */
  async function fetchThose(names) {
    const wanted = names.filter((each) => parts.get(each)?.of !== q)
    if (!wanted.length) return
    const asked = q
    const until = AbortSignal.any([signal, last.signal])
    for (const each of wanted) {
      const part = /** @type {NonNullable<ReturnType<typeof parts.get>>} */ (parts.get(each))
      part.of = asked
      if (!part.found) fill(part.body, loading('the counts'))
    }
    try {
      const answer = await ask('api/facets', { stage, q: asked, names: wanted.join(',') }, until)
      if (q !== asked) return
      for (const each of wanted) paint(each, answer.facets[each])
      reading(answer.complete !== false)
      if (answer.complete === false) {
        for (const each of wanted) if (parts.get(each)) /** @type {any} */ (parts.get(each)).of = null
        setTimeout(() => { if (!until.aborted) fetchThose(wanted) }, AGAIN_MS)
      }
    } catch (error) {
      if (until.aborted) return
      for (const each of wanted) {
        const part = parts.get(each)
        if (!part) continue
        part.of = null
        part.found = null
        fill(part.body, failed('The counts', error, () => fetchThose([each])))
      }
    }
  }

  /** @param {string} of @param {any} found */
  function paint(of, found) {
    const part = parts.get(of)
    if (!part) return
    // who types or has the focus in it goes on there
    const focus = part.body.contains(document.activeElement) ? focused(part.body) : null
    part.found = found ?? null
    // where nothing failed there is nothing to choose a cause from
    part.details.hidden = of === 'error_type' && found?.values?.length === 0
    fill(part.body, !found ? h('p', { class: 'note' }, 'No counts of this column.')
      : found.kind === 'number' ? histogram(of, found, rangeOf(q, of), (low, high) => changed(ranged(q, of, low, high)))
        : words(of, found))
    focus?.()
  }

  /** @param {string} of @param {any} found */
  function words(of, found) {
    const chosen = wordsOf(q, of)
    const values = found.values.filter((/** @type {any} */ each) => each[1] || chosen.includes(String(each[0])))
    const most = Math.max(1, ...values.map((/** @type {any} */ each) => each[1]))
    if (!values.length) return h('p', { class: 'note' }, found.more ? 'Too many different words to count, or to filter by.' : 'No value.')
    return [
      h('ul', {}, values.map((/** @type {any} */ [word, all, filtered]) => {
        const value = String(word)
        return h('li', {}, h('button', { type: 'button', class: 'term', 'aria-pressed': String(chosen.includes(value)), 'data-word': value, onclick: () => changed(toggled(q, of, value)) },
          name(value, 28), h('span', { class: 'number' }, shown(filtered), h('span', { class: 'muted' }, ` of ${shown(all)}`)),
          h('span', { class: 'bar', 'aria-hidden': 'true', style: { width: `${100 * filtered / most}%` } })))
      })),
      found.more ? h('p', { class: 'note' }, `and ${shown(found.more)} more: type ${of}: in the filter`) : null]
  }

  return {
    element,
    /** Show the counts of this filter. @param {string} to @param {boolean} [again] though they have been asked for */
    update(to, again = false) {
      if (again) for (const part of parts.values()) part.of = null
      if (to !== q || again) {
        last.abort()
        last = new AbortController()
        q = to
      }
      for (const [of, { details }] of parts) {
        const [low, high] = rangeOf(q, of)
        const badge = details.querySelector('.asked')
        badge?.toggleAttribute('hidden', !wordsOf(q, of).length && !low && !high)
      }
      shows = true
      soon([...parts].filter(([, part]) => part.details.open).map(([of]) => of))
    },
    /** The words of a column. @param {string} of @returns {Promise<string[]>} */
    async words(of) {
      const known = parts.get(of)?.found
      const found = known?.values ? known : (await ask('api/facets', { stage, names: of }, signal)).facets[of]
      return (found?.values ?? []).map((/** @type {any} */ each) => String(each[0]))
    },
  }
}

/** @param {Column} column */
function isNumber(column) {
  return column.kind === 'number' || column.kind === 'integer'
}

const NUMBERS = ['pck', 'margin', 'iou', 'miou', 'nmcovering', 'confidence', 'area_fraction', 'accuracy', 'pixel_accuracy', 'region_count', 'leaves', 'depth']

/** What people look for first. @param {Column} column */
function rank(column) {
  if (FIRST.includes(column.name)) return FIRST.indexOf(column.name)
  if (column.kept) return 10
  if (isNumber(column)) return NUMBERS.includes(column.name) ? 20 + NUMBERS.indexOf(column.name) : 40
  return column.kind === 'boolean' ? 60 : 70
}

/** @param {HTMLElement} body @returns {(() => void) | null} what gives the focus back when the content has been made anew */
function focused(body) {
  const active = /** @type {HTMLElement} */ (document.activeElement)
  const word = active.dataset.word
  const place = Array.from(body.querySelectorAll('input')).indexOf(/** @type {HTMLInputElement} */ (active))
  return () => {
    const next = word !== undefined ? Array.from(body.querySelectorAll('button')).find((each) => each.dataset.word === word) : body.querySelectorAll('input')[place]
    next?.focus({ preventScroll: true })
  }
}
