// Two runs side by side: what differs, sorted by how much, one image of both with a swipe, and settings that are not the same.

import { go, to } from './address.js'
import { ask, tell, url } from './asking.js'
import { fill, h, name, say, shown, wide } from './dom.js'
import { filterLine } from './filterline.js'
import { failed, none, when } from './states.js'
import { twice } from './twice.js'

const PAGE = 60
const SORTS = { difference: 'B − A', a: 'A', b: 'B', id: 'name' }
const POLL_MS = 700
/** @type {Record<string, string>} */
const OVERLAYS = { objects: 'mask', labels: 'labels', trees: 'tree' }

/** @type {import('./main.js').Screen} */
export const compare = { title: 'Compare', fits: (about) => about.other !== null, show }

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
  /** @type {Record<string, string>} */
  const query = { stage: stages[0], ...view.address.query }
  const place = view.place.appendChild(h('div'))
  const page = Math.max(1, Number(query.page) || 1)
  const asked = { stage: query.stage, q: query.q, metric: query.metric, sort: query.sort ?? 'difference', desc: query.desc ? 1 : 0 }
  const row = view.address.path[0]
  if (row) await when(place, 'the comparison', () => ask(`api/compare/${encodeURIComponent(row)}`, asked, view.signal), (found) => twice(view, found, { ...asked, desc: asked.desc || null }))
  else await when(place, 'the comparison', () => ask('api/compare', { ...asked, offset: (page - 1) * PAGE, limit: PAGE }, view.signal), (found) => list(view, stages, found, asked, page))
}

/** @param {import('./main.js').View} view @param {string[]} stages @param {any} found @param {any} asked @param {number} page */
function list(view, stages, found, asked, page) {
  const at = (/** @type {any} */ more, /** @type {(string | number)[]} */ path = []) => to('compare', path, { ...asked, metric: found.metric, page: path.length || page === 1 ? null : page, ...more, desc: (more.desc ?? asked.desc) || null })
  const pages = Math.ceil(found.total / PAGE)
  const means = h('div'), agreed = h('div')
  const settle = () => when(means, 'the means', () => ask('api/compare/means', { stage: asked.stage, q: asked.q, metric: found.metric }, view.signal), meansOf)
  if (found.metric) settle()
  say(`${found.total} images`)
  view.keys({
    '/': { does: 'filter', run: (event) => { event.preventDefault(); document.getElementById('filter')?.focus() } },
    PageDown: { does: 'next page', run: () => { if (page < pages) go(at({ page: page + 1 })) } },
    PageUp: { does: 'page before', run: () => { if (page > 1) go(at({ page: page - 1 })) } },
  })
  const choose = (/** @type {string} */ label, /** @type {string[]} */ values, /** @type {string} */ now, /** @type {(value: string) => any} */ more) => {
    const select = h('select', { onchange: () => go(at({ page: 1, ...more(select.value) })) }, values.map((each) => h('option', { value: each, selected: each === now }, each)))
    return h('label', {}, label, ' ', select)
  }
  const stage = view.about.stages.find((/** @type {any} */ each) => each.name === asked.stage)
  const filter = filterLine({
    text: asked.q ?? '', columns: [{ name: 'id', kind: 'id' }, { name: 'flag', kind: 'words' }, ...stage.columns],
    words: async (of) => {
      const { facets } = await ask('api/facets', { stage: asked.stage, names: of }, view.signal)
      return (facets[of]?.values ?? []).map((/** @type {any[]} */ [word]) => word)
    },
    changed: (q, done) => { if (done && q !== (asked.q ?? '')) go(at({ q, page: 1 })) },
  })
  const cells = new Map()
  const overlay = OVERLAYS[found.kind] ?? 'none'
  const most = Math.max(1e-9, ...found.rows.map((/** @type {any} */ row) => Math.abs(row.difference ?? 0)))
  const picture = (/** @type {string} */ run, /** @type {number} */ row) => h('img', { alt: '', loading: 'lazy', src: url(`images/${row}.jpg`, { run, stage: asked.stage, side: 256, overlay }), onerror: (/** @type {Event} */ event) => /** @type {Element} */ (event.target).replaceWith(h('span', { class: 'muted' }, 'no picture')) })
  const lines = found.rows.map((/** @type {any} */ row) => {
    const cell = h('dd', {}, '–')
    cells.set(String(row.row_a), cell)
    const value = (/** @type {string} */ of, /** @type {any} */ told) => [h('dt', {}, of), told instanceof Element ? told : h('dd', {}, told)]
    return h('li', {}, h('a', { href: at({}, [row.row_a]) }, h('span', { class: 'two' }, picture('a', row.row_a), picture('b', row.row_b)), name(row.id, 40)),
      h('dl', {}, value('A', shown(row.a)), value('B', shown(row.b)), value('B − A', signed(row.difference)), found.kind === 'objects' ? value('agreement', cell) : null),
      Number.isFinite(row.difference) ? h('span', { class: 'lean', 'aria-hidden': 'true' }, h('span', { style: { left: `${row.difference < 0 ? 50 + 50 * row.difference / most : 50}%`, width: `${50 * Math.abs(row.difference) / most}%` } })) : null)
  })
  if (found.kind === 'objects' && found.rows.length) agreementOf(view, asked.stage, cells)
  return [
    h('p', {}, `${shown(found.common)} images are in both; ${shown(found.only_a)} in A alone, ${shown(found.only_b)} in B alone`
      + (found.other_content ? `; ${shown(found.other_content)} have one name and other contents, and are left out.` : '; those of one name have the same content.')),
    h('div', { class: 'choices' },
      stages.length > 1 ? choose('stage', stages, asked.stage, (value) => ({ stage: value, metric: null, q: null })) : null,
      found.metric ? choose('number', found.metrics, found.metric, (value) => ({ metric: value })) : null,
      choose('sort', Object.keys(SORTS), asked.sort, (value) => ({ sort: value })),
      h('a', { href: at({ desc: asked.desc ? 0 : 1, page: 1 }) }, asked.desc ? 'greatest first' : 'smallest first')),
    filter.element,
    found.metric ? means : none('The runs have no number in common.'),
    histogram(found.histogram),
    found.kind === 'objects' ? h('div', {}, agreed, h('button', { type: 'button', onclick: () => job(view, asked, agreed) }, 'Agreement of all masks of this filter'))
      : none(`Agreement: none; it is of object masks.${found.kind === 'labels' ? ' Label maps are scored over all images together: the numbers here are those that each image has of its own.' : ''}`),
    lines.length ? h('ul', { class: 'both' }, lines)
      : none('No image is in both and in the filter.'),
    pages > 1 ? h('nav', { class: 'choices', 'aria-label': 'Pages' }, page > 1 ? h('a', { href: at({ page: page - 1 }) }, 'Before') : null, `${page} of ${pages}`, page < pages ? h('a', { href: at({ page: page + 1 }) }, 'Next') : null) : null,
    h('h2', {}, 'Settings that differ'),
    found.settings.length ? wide('Settings that differ', h('table', {}, h('thead', {}, h('tr', {}, ['setting', 'A', 'B'].map((each) => h('th', { scope: 'col' }, each)))),
      h('tbody', {}, found.settings.map((/** @type {any[]} */ [of, a, b]) => h('tr', {}, h('th', { scope: 'row' }, of), h('td', {}, String(a)), h('td', {}, String(b)))))))
      : none('None.'),
  ]
}

/** @param {number | null} value */
function signed(value) {
  return value !== null && value > 0 ? `+${shown(value)}` : shown(value).replace('-', '−')
}

/** @param {any} found */
function meansOf(found) {
  if (!found.runs.length) return none('No image has this number in both.')
  const [a, b] = found.runs
  const line = (/** @type {string} */ of, /** @type {number} */ value, /** @type {number[]} */ ends) =>
    h('tr', {}, h('th', { scope: 'row' }, of), h('td', { class: 'number' }, shown(value)), h('td', { class: 'number' }, `${shown(ends[0])} to ${shown(ends[1])}`))
  return [wide('Means', h('table', {}, h('caption', {}, `${found.metric} over ${shown(found.images)} images`), h('thead', {}, h('tr', {}, ['', 'mean', '95 % interval'].map((each) => (each ? h('th', { scope: 'col' }, each) : h('td', {}))))),
    h('tbody', {}, line('A', a.mean, a.ci), line('B', b.mean, b.ci), line('B − A', b.difference, b.difference_ci)))),
  h('p', {}, `B is higher in ${shown(b.wins)}, lower in ${shown(b.losses)}, the same in ${shown(b.ties)}.`)]
}

/** @param {any} found */
function histogram(found) {
  const most = Math.max(1, ...found.counts)
  if (!found.counts.length) return null
  return h('figure', {}, h('div', { class: 'bars', role: 'img', 'aria-label': `How often each difference is, from ${shown(found.edges[0])} to ${shown(found.edges.at(-1))}` },
    found.counts.map((/** @type {number} */ count, /** @type {number} */ i) => h('span', { title: `${shown(found.edges[i])}: ${count}`, style: { height: `${100 * count / most}%` } }))),
    h('figcaption', { class: 'ends' }, h('span', {}, signed(found.edges[0])), h('span', {}, 'images by B − A'), h('span', {}, signed(found.edges.at(-1)))))
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
