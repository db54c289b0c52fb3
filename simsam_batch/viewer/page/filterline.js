// The filter line: an input that completes names, operators and words, and shows a fault at its place in the text.

import { fill, h } from './dom.js'
import { quoted, terms } from './terms.js'

/** @typedef {{name: string, kind: string, doc?: string}} Column */
/** @typedef {{text: string, hint: string}} Offer what to put in place of the term, and what it is */

const PAUSE_MS = 250
const MOST_OFFERS = 12
const OPERATORS = /** @type {[string, string][]} */ ([['<', 'less than'], ['>', 'greater than'], ['<=', 'at most'], ['>=', 'at least'], [':', 'a range, as 0.1..0.5'], ['?', 'has a value']])

/**
 * @param {object} given
 * @param {string} given.text at first
 * @param {Column[]} given.columns that can be asked of
 * @param {(name: string) => Promise<string[]>} given.words of a column
 * @param {(text: string, done: boolean) => void} given.changed called after a pause in typing, and with done when it is over
 */
export function filterLine({ text, columns, words, changed }) {
  /** @type {Offer[]} */
  let offers = []
  let active = -1
  let timer = 0
  let asked = 0
  let told = text
  const list = h('ul', { role: 'listbox', id: 'offers', 'aria-label': 'Completions', hidden: true })
  const fault = h('p', { class: 'fault', id: 'filter-fault', hidden: true })
  const input = h('input', {
    id: 'filter', type: 'text', role: 'combobox', value: text, maxlength: 2000, autocomplete: 'off', spellcheck: 'false', autocapitalize: 'off',
    'aria-autocomplete': 'list', 'aria-expanded': 'false', 'aria-controls': 'offers', 'aria-describedby': 'filter-help filter-fault',
    placeholder: example(columns), oninput: typed, onkeydown: pressed, onblur: () => { close(); tell(true) },
  })
  const element = h('div', { class: 'filterline' },
    h('label', { for: 'filter' }, 'Filter ', h('kbd', {}, '/')),
    h('div', { class: 'combo' }, input, list, h('button', { type: 'button', class: 'clear', onclick: clear }, 'Clear')),
    h('p', { class: 'hidden', id: 'filter-help' }, 'Terms with spaces between them, all of which must hold. Arrow down offers names and words.'),
    fault)

  function typed() {
    clearTimeout(timer)
    timer = setTimeout(() => tell(false), PAUSE_MS)
    offer()
  }

  /** @param {boolean} done */
  function tell(done) {
    clearTimeout(timer)
    if (input.value === told && !done) return
    told = input.value
    changed(input.value.trim(), done)
  }

  function clear() {
    input.value = ''
    input.focus()
    close()
    tell(true)
  }

  /** @param {KeyboardEvent} event */
  function pressed(event) {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault()
      if (list.hidden) { offer(); return }
      const step = event.key === 'ArrowDown' ? 1 : -1
      point((active + step + offers.length + (active < 0 && step < 0 ? 1 : 0)) % offers.length)
    } else if (event.key === 'Enter') {
      event.preventDefault()
      if (!list.hidden && active >= 0) take(offers[active])
      else { close(); tell(true) }
    } else if (event.key === 'Escape') {
      if (!list.hidden) close()
      else input.blur()
      event.preventDefault()
    }
  }

  async function offer() {
    const mine = ++asked
    const found = await offersFor(input.value, input.selectionStart ?? input.value.length, columns, words)
    if (mine !== asked || document.activeElement !== input) return
    offers = found
    active = -1
    fill(list, offers.map((each, i) => h('li', { role: 'option', id: `offer-${i}`, 'aria-selected': 'false', onmousedown: (/** @type {Event} */ event) => { event.preventDefault(); take(each) } },
      h('bdi', {}, each.text), each.hint ? h('span', { class: 'muted' }, each.hint) : null)))
    list.hidden = !offers.length
    input.setAttribute('aria-expanded', String(!list.hidden))
    input.removeAttribute('aria-activedescendant')
  }

  /** @param {number} which */
  function point(which) {
    list.children[active]?.setAttribute('aria-selected', 'false')
    active = which
    list.children[active].setAttribute('aria-selected', 'true')
    list.children[active].scrollIntoView({ block: 'nearest' })
    input.setAttribute('aria-activedescendant', `offer-${active}`)
  }

  /** @param {Offer} taken */
  function take(taken) {
    const [start, end] = around(input.value, input.selectionStart ?? input.value.length)
    const before = input.value.slice(0, start) + taken.text
    input.value = before + input.value.slice(end)
    input.setSelectionRange(before.length, before.length)
    typed()
  }

  function close() {
    asked += 1
    list.hidden = true
    input.setAttribute('aria-expanded', 'false')
    input.removeAttribute('aria-activedescendant')
  }

  return {
    element,
    input,
    /** @param {string} to */
    set(to) {
      input.value = told = to
      clearTimeout(timer)
    },
    /** @param {string} [message] none: the filter is right @param {number} [at] */
    fault(message, at = 0) {
      input.setAttribute('aria-invalid', String(Boolean(message)))
      fault.hidden = !message
      const where = Math.min(at, input.value.length)
      const around = message && input.value.trim() ? h('code', {}, h('bdi', {}, input.value.slice(0, where), h('mark', {}, input.value.slice(where, where + 1) || '␣'), input.value.slice(where + 1))) : null
      fill(fault, message ? [around, ' ', message] : [])
    },
  }
}

/** @param {Column[]} columns */
function example(columns) {
  const number = columns.find((each) => ['iou', 'miou', 'confidence'].includes(each.name)) ?? columns.find((each) => each.kind === 'number')
  return number ? `for instance ${quoted(number.name)}<0.2 status:ok` : 'for instance status:failed'
}

/** Where the term is that a caret stands in. @param {string} text @param {number} caret @returns {[number, number]} */
function around(text, caret) {
  const term = terms(text).find((each) => each.start <= caret && caret <= each.end)
  return term ? [term.start, term.end] : [caret, caret]
}

/**
 * @param {string} text @param {number} caret @param {Column[]} columns @param {(name: string) => Promise<string[]>} words
 * @returns {Promise<Offer[]>}
 */
async function offersFor(text, caret, columns, words) {
  const [start] = around(text, caret)
  const [term] = terms(text.slice(start, caret))
  const minus = term?.turned ? '-' : ''
  const column = columns.find((each) => each.name === term?.name)
  if (term?.does === ':' && column && !['number', 'integer', 'id'].includes(column.kind)) {
    const last = term.values.at(-1) ?? ''
    const open = text[caret - 1] === ','
    const before = open ? term.values : term.values.slice(0, -1)
    const part = open ? '' : last.toLowerCase()
    const found = column.kind === 'boolean' ? ['true', 'false'] : await words(column.name).catch(() => [])
    return found.filter((each) => each.toLowerCase().includes(part) && each !== last && !before.includes(each)).slice(0, MOST_OFFERS)
      .map((each) => ({ text: `${minus}${quoted(column.name)}:${[...before, each].map(quoted).join(',')}`, hint: '' }))
  }
  if (term?.does) return []
  if (column && ['number', 'integer'].includes(column.kind)) return OPERATORS.map(([of, hint]) => ({ text: `${minus}${quoted(column.name)}${of}`, hint }))
  const part = (term?.name ?? '').toLowerCase()
  const named = columns.filter((each) => each.name.toLowerCase().includes(part) && (each.kind !== 'boolean' || each.name !== term?.name))
  named.sort((one, other) => Number(other.name.toLowerCase().startsWith(part)) - Number(one.name.toLowerCase().startsWith(part)))
  return named.slice(0, MOST_OFFERS).map((each) => ({ text: minus + quoted(each.name) + (AFTER[each.kind] ?? ''), hint: HINTS[each.kind] ?? '' }))
}

/** @type {Record<string, string>} */
const AFTER = { words: ':', id: '~' }
/** @type {Record<string, string>} */
const HINTS = { words: 'one of some words', id: 'contains', number: 'a number', integer: 'a whole number', boolean: 'is true' }
