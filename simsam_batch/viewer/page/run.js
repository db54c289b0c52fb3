// The run: how far each stage is, what it found, and with which settings.

import { to } from './address.js'
import { ask } from './asking.js'
import { fill, h, name, shown } from './dom.js'
import { none, when } from './states.js'

const STATUS_MS = 5000

/** @type {import('./main.js').Screen} */
export const run = { title: 'Run', fits: () => true, show }

/** @param {import('./main.js').View} view */
async function show(view) {
  const progress = h('div', { class: 'wide' })
  const found = h('div')
  fill(view.place, h('h1', {}, 'Run'), progress, found,
    h('h2', {}, 'At the command line'),
    h('p', { class: 'note' }, 'OUT is the folder of the run.'),
    h('ul', {}, ['status', 'retry', 'verify', 'report'].map((each) => h('li', {}, h('code', {}, `simsam ${each} OUT`)))))
  await Promise.all([
    when(progress, 'how far it is', () => ask('api/status', {}, view.signal), stagesOf),
    when(found, 'what it found', () => ask('api/results', {}, view.signal), (of) => view.about.stages.flatMap((/** @type {any} */ stage) => section(stage, of.stages[stage.name]))),
  ])
  const timer = setInterval(async () => {
    if (document.hidden) return
    try { fill(progress, stagesOf(await ask('api/status', {}, view.signal))) } catch { /* the next one may answer */ }
  }, STATUS_MS)
  view.signal.addEventListener('abort', () => clearInterval(timer))
}

/** @param {any} found */
function stagesOf(found) {
  const entries = Object.entries(found.stages)
  if (!entries.length) return none('No stage has begun.')
  return h('table', {},
    h('caption', {}, 'Stages, each after the one that it reads'),
    h('thead', {}, h('tr', {}, ['stage', 'done', 'pending', 'of', 'time left', 'results'].map((each, i) => h('th', { scope: 'col', class: i > 0 && i < 5 ? 'number' : null }, each)))),
    h('tbody', {}, entries.map(([stage, of]) => h('tr', {}, h('th', { scope: 'row' }, stage),
      [of.done, of.pending, of.images].map((each) => h('td', { class: 'number' }, shown(each))),
      h('td', { class: 'number' }, of.pending && of.seconds_left !== null ? duration(of.seconds_left) : '–'),
      h('td', {}, of.published ? h('span', { class: 'badge done' }, 'published') : of.pending ? h('span', { class: 'badge going' }, 'not finished') : 'not published')))))
}

/** @param {number} seconds */
function duration(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${shown(seconds / 3600, 1)} h`
}

/** @param {any} stage @param {any} result */
function section(stage, result) {
  return [
    h('h2', {}, stage.name), h('p', { class: 'note' }, stage.title),
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
    flat.length ? h('div', { class: 'wide' }, h('table', {},
      h('thead', {}, h('tr', {}, ['metric', 'value', '95 %'].map((each) => h('th', { scope: 'col' }, each)))),
      h('tbody', {}, flat.map(([key, value]) => h('tr', {}, h('th', { scope: 'row' }, key),
        h('td', { class: 'number' }, typeof value === 'number' ? shown(value) : String(value ?? '–')),
        h('td', { class: 'number' }, interval(values[`${key}_ci`]))))))) : null,
    nested.map(([key, value]) => folded(key, value)),
  ]
}

/** @param {any} ends */
function interval(ends) {
  return Array.isArray(ends) && typeof ends[0] === 'number' ? `${shown(ends[0])} to ${shown(ends[1])}` : ''
}

/** @param {string} title @param {any} values */
function folded(title, values) {
  return h('details', {}, h('summary', {}, title), h('div', { class: 'wide' }, h('table', {}, h('tbody', {},
    Object.entries(values).map(([key, value]) => h('tr', {}, h('th', { scope: 'row' }, name(key)),
      h('td', {}, typeof value === 'number' ? shown(value) : name(typeof value === 'string' ? value : JSON.stringify(value)))))))))
}
