// The run: how far each stage is, what it found, and with which settings.

import { to } from './address.js'
import { ask } from './asking.js'
import { command, fill, h, name, shown, wide } from './dom.js'
import { none, when } from './states.js'

const STATUS_MS = 5000
const COMMANDS = [['status', 'how far it is, while it goes on'], ['retry', 'what failed, once more'], ['verify', 'whether its files are as they were written'], ['report', 'a page of pictures and figures, to be passed on'], ['export --help', 'its results in other formats']]

/** @type {import('./main.js').Screen} */
export const run = { title: 'Run', fits: () => true, show }

/** @param {import('./main.js').View} view */
async function show(view) {
  const progress = wide('Stages')
  const found = h('div')
  fill(view.place, h('h1', {}, 'Run'), progress, found,
    h('h2', {}, 'At the command line'),
    h('ul', {}, COMMANDS.map(([each, words]) => h('li', {}, command(`simsam ${each.replace(/ |$/, ` ${quoted(view.about.url)} `).trim()}`), ` ${words}`))))
  /** @type {any} */
  let last = null
  await Promise.all([
    when(progress, 'how far it is', () => ask('api/status', { failures: 1 }, view.signal), (of) => { last = of; return stagesOf(of) }),
    when(found, 'what it found', () => ask('api/results', {}, view.signal), (of) => view.about.stages.flatMap((/** @type {any} */ stage) => section(stage, of.stages[stage.name]))),
  ])
  const timer = setInterval(async () => {
    if (document.hidden) return
    try {
      // Failures stand in the manifests: these are read again only when there are more of them.
      const now = await ask('api/status', {}, view.signal)
      const more = Object.entries(now.stages).some(([stage, of]) => of.done !== last?.stages[stage]?.done)
      if (more) last = await ask('api/status', { failures: 1 }, view.signal)
      for (const [stage, of] of Object.entries(now.stages)) of.failed = last?.stages[stage]?.failed
      fill(progress, stagesOf(now))
    } catch { /* the next one may answer */ }
  }, STATUS_MS)
  view.signal.addEventListener('abort', () => clearInterval(timer))
}

/** @param {any} found */
function stagesOf(found) {
  const entries = Object.entries(found.stages)
  if (!entries.length) return none('No stage has begun.')
  return h('table', {},
    h('caption', {}, 'Stages, each after the one that it reads'),
    h('thead', {}, h('tr', {}, ['stage', 'done', 'failed', 'pending', 'of', 'time left', 'state'].map((each, i) => h('th', { scope: 'col', class: i > 0 && i < 6 ? 'number' : null }, each)))),
    h('tbody', {}, entries.map(([stage, of]) => h('tr', {}, h('th', { scope: 'row' }, stage),
      [of.done, of.failed, of.pending, of.images].map((each) => h('td', { class: 'number' }, shown(each))),
      h('td', { class: 'number' }, of.pending && of.seconds_left !== null ? duration(of.seconds_left) : '–'),
      h('td', {}, badge(of))))))
}

/** @param {any} of */
function badge(of) {
  if (of.published) return h('span', { class: 'badge done' }, 'published')
  if (of.stalled) return h('span', { class: 'badge fault' }, 'stalled')
  return of.pending ? h('span', { class: 'badge going' }, 'not finished') : 'not published'
}

/** As a shell takes it. @param {string} text */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}

/** @param {number} seconds */
function duration(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${shown(seconds / 3600, 1)} h`
}

/** @param {any} stage @param {any} result */
function section(stage, result) {
  return [
    h('h2', {}, stage.name), h('p', { class: 'note' }, stage.title),
    stage.name === 'probe-maps' ? h('p', {}, h('a', { href: to('clusters', [stage.name]) }, 'Predicted labels and their confusion')) : null,
    result ? [failures(stage, result), metrics(result.metrics ?? {})] : none('Its results are not published yet.'),
    folded('Settings', { ...stage.settings, ...stage.resolved }),
    result?.versions ? folded('Versions', result.versions) : null,
  ].flat(3)
}

/** @param {any} stage @param {any} result */
function failures(stage, result) {
  const causes = Object.entries(result.errors_by_type ?? {})
  if (!causes.length) return h('p', {}, 'None failed.')
  return h('div', {}, h('p', {}, `${shown(result.failed)} failed:`), h('ul', {}, causes.map(([cause, count]) => h('li', {},
    stage.of_images ? h('a', { href: to('browse', [], { stage: stage.name, q: `error_type:${cause}` }) }, name(cause)) : name(cause), ` ${shown(count)}`))))
}

/** Numbers with their intervals; what is nested is opened one by one. @param {Record<string, any>} values */
function metrics(values) {
  const flat = Object.entries(values).filter(([key, value]) => !key.endsWith('_ci') && (value === null || typeof value !== 'object'))
  const nested = Object.entries(values).filter(([key, value]) => !key.endsWith('_ci') && value !== null && typeof value === 'object')
  return [
    flat.length ? wide('Scores', h('table', {},
      h('thead', {}, h('tr', {}, ['metric', 'value', '95 %'].map((each) => h('th', { scope: 'col' }, each)))),
      h('tbody', {}, flat.map(([key, value]) => h('tr', {}, h('th', { scope: 'row' }, key),
        h('td', { class: 'number' }, typeof value === 'number' ? shown(value) : String(value ?? '–')),
        h('td', { class: 'number' }, interval(values[`${key}_ci`]))))))) : null,
    nested.map(([key, value]) => key === 'table' && value.lines ? scores(value) : nestedOf(key, value)),
  ]
}

/** The scores of probes, a line a probe; a click on a head sorts by it. @param {any} table */
function scores(table) {
  const place = wide('Scores of probes')
  const heads = ['probe', 'features', ...table.fractions.map((/** @type {number} */ each) => `mIoU at ${shown(each * 100)} %`)]
  const lines = table.lines.map((/** @type {any} */ line) => [line.probe, line.features, ...line.miou])
  const draw = (/** @type {number} */ by, /** @type {boolean} */ down) => {
    const order = (/** @type {any[]} */ a, /** @type {any[]} */ b) => (a[by] ?? -Infinity) < (b[by] ?? -Infinity) ? -1 : a[by] === b[by] ? 0 : 1
    const sorted = by < 0 ? [...lines] : [...lines].sort(order)
    if (down) sorted.reverse()
    fill(place, h('table', {}, h('caption', {}, 'Scores by the share of training images'),
      h('thead', {}, h('tr', {}, heads.map((head, i) => h('th', { scope: 'col', 'aria-sort': i === by ? (down ? 'descending' : 'ascending') : null },
        h('button', { type: 'button', onclick: () => { draw(i, i === by ? !down : i > 1); place.querySelectorAll('button')[i].focus() } }, head))))),
      h('tbody', {}, sorted.map((/** @type {any[]} */ line) => h('tr', {}, line.map((cell, i) => i < 2
        ? h(i ? 'td' : 'th', { scope: i ? null : 'row' }, name(String(cell ?? '–')))
        : h('td', { class: 'number' }, shown(cell))))))))
  }
  draw(-1, false)
  return place
}

/** What is nested, as tables within tables. @param {string} title @param {any} value */
function nestedOf(title, value) {
  return h('details', {}, h('summary', {}, name(title)), wide(title, valueOf(value)))
}

/** @param {any} value @returns {any} */
function valueOf(value) {
  if (typeof value === 'number') return shown(value)
  if (value === null || typeof value !== 'object') return name(String(value ?? '–'))
  if (Array.isArray(value) && value.every((each) => each === null || typeof each !== 'object')) return value.map((each) => typeof each === 'number' ? shown(each) : String(each ?? '–')).join(', ') || '–'
  const entries = Object.entries(value)
  if (!entries.length) return '–'
  return h('table', {}, h('tbody', {}, entries.map(([key, each]) => h('tr', {}, h('th', { scope: 'row' }, name(key)), h('td', {}, valueOf(each))))))
}

/** @param {any} ends */
function interval(ends) {
  return Array.isArray(ends) && typeof ends[0] === 'number' ? `${shown(ends[0])} to ${shown(ends[1])}` : ''
}

/** @param {string} title @param {any} values */
function folded(title, values) {
  return h('details', {}, h('summary', {}, title), wide(title, h('table', {}, h('tbody', {},
    Object.entries(values).map(([key, value]) => h('tr', {}, h('th', { scope: 'row' }, name(key)),
      h('td', {}, valueOf(value))))))))
}
