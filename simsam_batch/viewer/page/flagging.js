// Flags: what a person says of images, taken back step by step, the same on every screen.

import { ask, tell } from './asking.js'
import { fill, h, name, say } from './dom.js'
import { failed } from './states.js'

/** @typedef {{verdict: string, reasons: string[], note: string, reviewer: string, stale: boolean}} Flag */
/** @typedef {Flag | null | ((row: number) => Flag | null)} FlagOf of one row, or by rows */
/** @typedef {(rows: number[], flag: Flag | null) => void} Changed told of every change, those of undo too */
/** @typedef {{stage: string, rows: number[], flag: FlagOf, changed: Changed, run?: string}} Current */
/** @typedef {{stage: string, run: string, before: Map<number, Flag | null>, changed: Changed}} Step */

const VERDICTS = /** @type {[string, string][]} */ ([['bad', 'x'], ['good', 'g'], ['unsure', '']])
const MOST_STEPS = 100
/** @type {Step[]} */
const steps = []

/** A flag in words. @param {Flag} flag */
export function flagWords(flag) {
  return [flag.verdict, flag.reasons.length ? `: ${flag.reasons.join(', ')}` : '', flag.stale ? ' (of a mask that has been replaced)' : ''].join('')
}

/** A badge that says how an image is flagged. @param {Flag} flag */
export function flagBadge(flag) {
  const kinds = /** @type {Record<string, string>} */ ({ bad: 'fault', good: 'done', unsure: 'going' })
  const signs = /** @type {Record<string, string>} */ ({ bad: '✕', good: '✓', unsure: '?' })
  return h('span', { class: `badge ${kinds[flag.verdict] ?? ''}`, title: flag.note ? `${flag.reviewer}: ${flag.note}` : flag.reviewer },
    h('span', { 'aria-hidden': 'true' }, `${signs[flag.verdict] ?? ''} `), flagWords(flag))
}

/** @param {FlagOf} flag @param {number} row */
function flagOf(flag, row) {
  return typeof flag === 'function' ? flag(row) : flag
}

/**
 * @param {import('./main.js').View} view @param {Current} current
 * @param {string | null} verdict null: take back @param {string[]} [reasons] @param {string} [note]
 */
async function put(view, current, verdict, reasons = [], note = '') {
  const { writable, why, reviewer } = view.about.flags
  if (!writable) { say(`Flags cannot be written: ${why}`); return }
  if (!current.rows.length) { say('No image is chosen'); return }
  const before = new Map(current.rows.map((row) => [row, flagOf(current.flag, row)]))
  await post(current.stage, current.run ?? 'a', current.rows, verdict, reasons, note)
  steps.push({ stage: current.stage, run: current.run ?? 'a', before, changed: current.changed })
  if (steps.length > MOST_STEPS) steps.shift()
  current.changed(current.rows, verdict === null ? null : { verdict, reasons, note, reviewer, stale: false })
  const many = current.rows.length === 1 ? '1 image' : `${current.rows.length} images`
  say(verdict === null ? `Flag of ${many} taken back` : `${many}: ${[verdict, ...reasons].join(', ')}`)
}

/** @param {string} stage @param {string} run @param {number[]} rows @param {string | null} verdict @param {string[]} reasons @param {string} note */
function post(stage, run, rows, verdict, reasons, note) {
  return tell('POST', 'api/flags', { stage, rows, verdict, reasons, note, run })
}

/** Take the last change back. @param {import('./main.js').View} view */
async function undo(view) {
  const step = steps.at(-1)
  if (!step) { say('There is nothing to undo'); return }
  /** @type {Map<string, {flag: Flag | null, rows: number[]}>} */
  const groups = new Map()
  for (const [row, flag] of step.before) {
    // what somebody else has said stands again as soon as what was said here is taken back
    const mine = flag && flag.reviewer === view.about.flags.reviewer ? flag : null
    const key = JSON.stringify([mine, flag])
    if (!groups.has(key)) groups.set(key, { flag, rows: [] })
    groups.get(key)?.rows.push(row)
  }
  for (const { flag, rows } of groups.values()) {
    const mine = flag && flag.reviewer === view.about.flags.reviewer ? flag : null
    await post(step.stage, step.run, rows, mine?.verdict ?? null, mine?.reasons ?? [], mine?.note ?? '')
    step.changed(rows, flag)
  }
  steps.splice(steps.indexOf(step), 1)
  say(`Undone: ${step.before.size === 1 ? '1 image' : `${step.before.size} images`} as before`)
}

/** @param {Current} current @param {string} reason */
function withReason(current, reason) {
  const flag = flagOf(current.flag, current.rows[0])
  const now = flag?.verdict ? flag.reasons : []
  return now.includes(reason) ? now.filter((each) => each !== reason) : [...now, reason]
}

/** @param {import('./main.js').View} view @param {() => Promise<void>} does @param {Element} [place] */
async function attempt(view, does, place) {
  try {
    await does()
    if (place) fill(place)
  } catch (error) {
    if (view.signal.aborted) return
    say(`The flag was not kept: ${error instanceof Error ? error.message : error}`)
    if (place) fill(place, failed('The flag', error, () => attempt(view, does, place)))
  }
}

/**
 * Keys for flags, to be given to `view.keys` among those of the screen.
 * @param {import('./main.js').View} view
 * @param {() => Current | null} current what they are about when one is pressed
 * @returns {import('./keys.js').Keys}
 */
export function flagKeys(view, current) {
  const on = (/** @type {(of: Current) => Promise<void>} */ does) => () => {
    const of = current()
    if (of) attempt(view, () => does(of))
    else say('No image is chosen')
  }
  const reasons = /** @type {string[]} */ (view.about.flags.reasons).map((reason, i) =>
    [String(i + 1), { does: `bad: ${reason}`, run: on((of) => put(view, of, 'bad', withReason(of, reason), flagOf(of.flag, of.rows[0])?.note ?? '')) }])
  return {
    x: { does: 'flag as bad', run: on((of) => put(view, of, 'bad')) },
    g: { does: 'flag as good', run: on((of) => put(view, of, 'good')) },
    ...Object.fromEntries(reasons),
    u: { does: 'undo the last flag', run: () => attempt(view, () => undo(view)) },
  }
}

/**
 * Buttons that flag one image or several.
 * @param {import('./main.js').View} view @param {string} stage @param {number[]} rows
 * @param {FlagOf} flag as it is now @param {Changed} changed @param {string} [run]
 */
export function flagBar(view, stage, rows, flag, changed, run = 'a') {
  const { writable, why, where, reasons } = view.about.flags
  let now = flagOf(flag, rows[0])
  const places = new Map(rows.map((row) => [row, flagOf(flag, row)]))
  const current = () => ({ stage, rows, run, flag: (/** @type {number} */ row) => places.get(row) ?? null, changed: told })
  const off = writable && rows.length ? null : true
  const fault = h('div', {})
  const buttons = h('div', { class: 'verdicts', role: 'group', 'aria-label': 'Flag' })
  const toggles = h('div', { class: 'reasons', role: 'group', 'aria-label': 'Why it is bad' })
  const note = h('input', { type: 'text', class: 'note-of-flag', maxlength: 2000, disabled: off, value: now?.note ?? '', 'aria-label': 'Note', placeholder: 'Note', onchange: noted })
  const others = h('details', { hidden: rows.length !== 1, ontoggle: () => { if (others.open) who() } }, h('summary', {}, 'Who flagged it'), h('div', {}))

  /** @type {Changed} */
  function told(some, flag) {
    for (const row of some) if (places.has(row)) places.set(row, flag)
    if (some.includes(rows[0])) {
      now = flag
      if (document.activeElement !== note) note.value = now?.note ?? ''
    }
    paint()
    if (others.open) who()
    changed(some, flag)
  }

  /** @param {string | null} verdict @param {string[]} [why] */
  function set(verdict, why) {
    attempt(view, () => put(view, current(), verdict, why, verdict === null ? '' : note.value), fault)
  }

  function noted() {
    set(now?.verdict ?? 'unsure', now?.reasons)
  }

  function paint() {
    // the button that was pressed keeps the focus
    const all = [...buttons.children, ...toggles.children]
    VERDICTS.forEach(([verdict], i) => all[i].setAttribute('aria-pressed', String(now?.verdict === verdict)))
    const back = /** @type {HTMLButtonElement} */ (all[VERDICTS.length])
    back.disabled = Boolean(off) || ![...places.values()].some(Boolean)
    reasons.forEach((/** @type {string} */ reason, /** @type {number} */ i) =>
      all[VERDICTS.length + 1 + i].setAttribute('aria-pressed', String(Boolean(now?.reasons.includes(reason)))))
  }

  async function who() {
    const place = others.lastElementChild
    if (!place) return
    try {
      const found = await ask('api/flags', { stage, run, row: rows[0] }, view.signal)
      const of = found.flags.filter((/** @type {any} */ each) => each.row === rows[0] && each.verdict)
      fill(place, of.length ? h('ul', {}, of.map((/** @type {any} */ each) => h('li', {}, name(each.reviewer), `: ${flagWords(each)}`, each.note ? [' – ', name(each.note, 300)] : null))) : h('p', { class: 'note' }, 'Nobody yet.'))
    } catch (error) {
      if (!view.signal.aborted) fill(place, failed('Who flagged it', error, who))
    }
  }

  fill(buttons,
    VERDICTS.map(([verdict, key]) => h('button', { type: 'button', disabled: off, onclick: () => set(verdict, verdict === 'bad' ? now?.reasons ?? [] : []) }, verdict, key ? [' ', h('kbd', {}, key)] : null)),
    h('button', { type: 'button', onclick: () => set(null) }, 'take back'))
  fill(toggles, reasons.map((/** @type {string} */ reason, /** @type {number} */ i) =>
    h('button', { type: 'button', disabled: off, onclick: () => set('bad', withReason(current(), reason)) }, h('kbd', {}, i + 1), ' ', reason)))
  paint()
  return h('div', { class: 'flagbar', role: 'group', 'aria-label': rows.length === 1 ? 'Flags' : `Flags of ${rows.length} images` },
    buttons, toggles, note, others,
    writable ? h('p', { class: 'note where' }, why ? `${why}. ` : null, 'Written to ', name(where ?? '', 50)) : h('p', { class: 'note' }, `Flags cannot be written: ${why}`), fault)
}
