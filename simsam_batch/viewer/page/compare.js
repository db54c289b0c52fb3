// Two runs side by side: what differs, sorted by how much, one image of both with a swipe, and settings that are not the same.

import { go, to } from './address.js'
import { ask, tell, url } from './asking.js'
import { fill, h, name, say, shown } from './dom.js'
import { failed, none, when } from './states.js'

const PAGE = 60
const SORTS = { difference: 'B − A', a: 'A', b: 'B', id: 'name' }
const POLL_MS = 700
/** @type {Record<string, string>} */
const OVERLAYS = { objects: 'mask', labels: 'labels', trees: 'tree' }

/** @type {import('./main.js').Screen} */
export const compare = { title: 'Compare', fits: () => true, show }

/** @param {import('./main.js').View} view */
async function show(view) {
  view.place.append(h('h1', {}, 'Compare'))
  const { about } = view
  if (!about.other) return void view.place.append(none('One run is open. Two of one command are compared, begun with', 'simsam view OUT OTHER'))
  const theirs = new Set(about.other.stages.map((/** @type {any} */ each) => each.name))
  const stages = about.stages.filter((/** @type {any} */ each) => each.of_images && theirs.has(each.name)).map((/** @type {any} */ each) => each.name)
  if (!stages.length) {
    const of = (/** @type {any} */ run) => run.stages.map((/** @type {any} */ each) => each.command)[0] ?? 'nothing'
    return void view.place.append(none(`The runs are of different commands, ${of(about)} and ${of(about.other)}: they have no stage in common. Runs of one command can be compared.`))
  }
  const query = { stage: stages[0], ...view.address.query }
  const place = view.place.appendChild(h('div'))
  const page = Math.max(1, Number(query.page) || 1)
  const asked = { stage: query.stage, q: query.q, metric: query.metric, sort: query.sort ?? 'difference', desc: query.desc ? 1 : 0 }
  await when(place, 'the comparison', () => ask('api/compare', { ...asked, offset: (page - 1) * PAGE, limit: PAGE }, view.signal),
    (found) => view.address.path[0] ? pair(view, found, asked, page) : list(view, stages, found, asked, page))
}

/** @param {import('./main.js').View} view @param {string[]} stages @param {any} found @param {any} asked @param {number} page */
function list(view, stages, found, asked, page) {
  const at = (/** @type {any} */ more, path = []) => to('compare', path, { ...asked, metric: found.metric, page, ...more, desc: (more.desc ?? asked.desc) || null })
  const pages = Math.ceil(found.total / PAGE)
  const means = h('div'), agreed = h('div')
  const settle = () => when(means, 'the means', () => ask('api/compare/means', { stage: asked.stage, q: asked.q, metric: found.metric }, view.signal), meansOf)
  if (found.metric) settle()
  say(`${found.total} images`)
  view.keys({
    PageDown: { does: 'next page', run: () => { if (page < pages) go(at({ page: page + 1 })) } },
    PageUp: { does: 'page before', run: () => { if (page > 1) go(at({ page: page - 1 })) } },
  })
  const choose = (/** @type {string} */ label, /** @type {string[]} */ values, /** @type {string} */ now, /** @type {(value: string) => any} */ more) => {
    const select = h('select', { onchange: () => go(at({ page: 1, ...more(select.value) })) }, values.map((each) => h('option', { value: each, selected: each === now }, each)))
    return h('label', {}, label, ' ', select)
  }
  const filter = h('input', { type: 'search', value: asked.q ?? '', 'aria-label': 'Filter of A' })
  const cells = new Map()
  const lines = found.rows.map((/** @type {any} */ row, /** @type {number} */ i) => {
    const cell = h('td', { class: 'number' }, '–')
    cells.set(String(row.row_a), cell)
    return h('tr', {}, h('th', { scope: 'row' }, h('a', { href: at({}, /** @type {any} */ ([i])) }, name(row.id, 40))),
      [row.a, row.b, row.difference].map((each) => h('td', { class: 'number' }, shown(each))), cell)
  })
  if (found.kind === 'objects' && found.rows.length) agreementOf(view, asked.stage, cells)
  return [
    h('p', {}, `${shown(found.common)} images are in both; ${shown(found.only_a)} in A alone, ${shown(found.only_b)} in B alone`
      + (found.other_content ? `; ${shown(found.other_content)} have one name and other contents, and are left out.` : '; those of one name have the same content.')),
    h('form', { class: 'choices', onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); go(at({ q: filter.value, page: 1 })) } },
      stages.length > 1 ? choose('stage', stages, asked.stage, (value) => ({ stage: value, metric: null, q: null })) : null,
      found.metric ? choose('number', found.metrics, found.metric, (value) => ({ metric: value })) : null,
      choose('sort', Object.keys(SORTS), asked.sort, (value) => ({ sort: value })),
      h('a', { href: at({ desc: asked.desc ? 0 : 1, page: 1 }) }, asked.desc ? 'greatest first' : 'smallest first'),
      filter, h('button', {}, 'Filter')),
    found.metric ? means : none('The runs have no number in common.'),
    histogram(found.histogram),
    found.kind === 'objects' ? h('div', {}, agreed, h('button', { type: 'button', onclick: () => job(view, asked, agreed) }, 'Agreement of all masks of this filter'))
      : none('Agreement: none; it is of object masks.'),
    lines.length ? h('div', { class: 'wide' }, h('table', {}, h('thead', {}, h('tr', {}, ['image', 'A', 'B', 'B − A', 'agreement (IoU)'].map((each) => h('th', { scope: 'col' }, each)))), h('tbody', {}, lines)))
      : none('No image is in both and in the filter.'),
    pages > 1 ? h('nav', { class: 'choices', 'aria-label': 'Pages' }, page > 1 ? h('a', { href: at({ page: page - 1 }) }, 'Before') : null, `${page} of ${pages}`, page < pages ? h('a', { href: at({ page: page + 1 }) }, 'Next') : null) : null,
    h('h2', {}, 'Settings that differ'),
    found.settings.length ? h('div', { class: 'wide' }, h('table', {}, h('thead', {}, h('tr', {}, ['setting', 'A', 'B'].map((each) => h('th', { scope: 'col' }, each)))),
      h('tbody', {}, found.settings.map((/** @type {any[]} */ [of, a, b]) => h('tr', {}, h('th', { scope: 'row' }, of), h('td', {}, String(a)), h('td', {}, String(b)))))))
      : none('None.'),
  ]
}

/** @param {any} found */
function meansOf(found) {
  if (!found.runs.length) return none('No image has this number in both.')
  const [a, b] = found.runs
  const told = (/** @type {number} */ value, /** @type {number[]} */ ends) => `${shown(value)} (${shown(ends[0])} to ${shown(ends[1])})`
  return h('p', {}, `Mean of ${found.metric} over ${shown(found.images)} images, with 95 % intervals: A ${told(a.mean, a.ci)}, B ${told(b.mean, b.ci)}, B − A ${told(b.difference, b.difference_ci)}. B is higher in ${shown(b.wins)}, lower in ${shown(b.losses)}, the same in ${shown(b.ties)}.`)
}

/** @param {any} found */
function histogram(found) {
  const most = Math.max(1, ...found.counts)
  if (!found.counts.length) return null
  return h('div', { class: 'bars', role: 'img', 'aria-label': `How often each difference is, from ${shown(found.edges[0])} to ${shown(found.edges.at(-1))}` },
    found.counts.map((/** @type {number} */ count, /** @type {number} */ i) => h('span', { title: `${shown(found.edges[i])}: ${count}`, style: { height: `${100 * count / most}%` } })))
}

/** @param {import('./main.js').View} view @param {string} stage @param {Map<string, HTMLElement>} cells */
async function agreementOf(view, stage, cells) {
  try {
    const { values } = await ask('api/compare/agreement', { stage, rows: [...cells.keys()].join() }, view.signal)
    for (const [row, cell] of cells) fill(cell, shown(values[row]))
  } catch { for (const cell of cells.values()) fill(cell, 'not known') }
}

/** @param {import('./main.js').View} view @param {any} asked @param {HTMLElement} place */
async function job(view, asked, place) {
  try {
    const { id } = await tell('POST', 'api/jobs', { kind: 'agreement', stage: asked.stage, q: asked.q ?? '' }, view.signal)
    const stop = h('button', { type: 'button', onclick: () => tell('DELETE', `api/jobs/${id}`) }, 'Stop')
    for (;;) {
      const at = await ask(`api/jobs/${id}`, {}, view.signal)
      if (at.finished) {
        fill(place, h('p', {}, at.error ?? (at.stopped ? `Stopped after ${at.done} of ${at.total}.` : `The masks of ${shown(at.values.images)} images agree by an IoU of ${shown(at.values.mean)} on average.`)))
        return
      }
      fill(place, h('progress', { value: at.done, max: Math.max(1, at.total), 'aria-label': 'Agreement' }), ` ${at.done} of ${at.total} `, stop)
      await new Promise((done) => setTimeout(done, POLL_MS))
    }
  } catch (error) {
    if (/** @type {Error} */ (error).name !== 'AbortError') fill(place, failed('The agreement', error, () => job(view, asked, place)))
  }
}

/** One image of both, B over A as far as the slider says. @param {import('./main.js').View} view @param {any} found @param {any} asked @param {number} page */
function pair(view, found, asked, page) {
  const place = Number(view.address.path[0])
  const row = found.rows[place]
  if (!row) return none('There is no such image in this list.')
  const at = (/** @type {any[]} */ path) => to('compare', path, { ...asked, metric: found.metric, page, desc: asked.desc || null })
  const overlay = OVERLAYS[found.kind] ?? 'none'
  const picture = (/** @type {'a' | 'b'} */ run, /** @type {number} */ of) => h('img', { alt: `${run === 'a' ? 'A' : 'B'}: ${row.id}`, src: url(`images/${of}.jpg`, { run, stage: asked.stage, side: 640, overlay, v: row[`v_${run}`] }) })
  const over = picture('b', row.row_b)
  const slider = h('input', { type: 'range', min: 0, max: 100, value: 50, 'aria-label': 'How much of B lies over A', oninput: () => turn() })
  const turn = () => over.style.setProperty('clip-path', `inset(0 0 0 ${100 - Number(slider.value)}%)`)
  turn()
  const step = (/** @type {number} */ by) => { if (found.rows[place + by]) go(at([place + by])) }
  const move = (/** @type {number} */ by) => { slider.value = String(Number(slider.value) + by); turn() }
  view.keys({
    s: { does: 'A, half, or B', run: () => { slider.value = slider.value === '100' ? '0' : slider.value === '0' ? '50' : '100'; turn() } },
    ArrowLeft: { does: 'more of B', run: () => move(5) }, ArrowRight: { does: 'more of A', run: () => move(-5) },
    n: { does: 'next image', run: () => step(1) }, p: { does: 'image before', run: () => step(-1) },
    Escape: { does: 'to the list', run: () => go(at([])) },
  })
  return [h('p', {}, h('a', { href: at([]) }, 'All images'), found.rows[place - 1] ? [' ', h('a', { href: at([place - 1]) }, 'Before')] : null, found.rows[place + 1] ? [' ', h('a', { href: at([place + 1]) }, 'Next')] : null),
    h('h2', {}, name(row.id)), h('p', {}, `${found.metric ?? ''} A ${shown(row.a)}, B ${shown(row.b)}, B − A ${shown(row.difference)}`),
    h('p', {}, h('label', {}, 'A ', slider, ' B')), h('div', { class: 'swipe' }, picture('a', row.row_a), over),
    h('div', { class: 'twice' }, h('figure', {}, picture('a', row.row_a), h('figcaption', {}, 'A')), h('figure', {}, picture('b', row.row_b), h('figcaption', {}, 'B')))]
}
