// Two runs side by side: what differs, sorted and restricted by how much, and one image of both.

import { go, here, step, to } from './address.js'
import { agreement, agreementsOf } from './agreement.js'
import { ask, url } from './asking.js'
import { pictured } from './cards.js'
import { command, fill, focusKept, h, name, say, shown, signed, wide } from './dom.js'
import { filterLine } from './filterline.js'
import { histogram } from './histogram.js'
import { pages } from './pages.js'
import { none, when } from './states.js'
import { twice } from './twice.js'

const PAGE = 60
/** @type {Record<string, string>} */
const SORTS = { difference: 'B − A', agreement: 'agreement of the masks', a: 'A', b: 'B', id: 'name' }
/** What a list is restricted by, as it is called in words. @type {Record<string, string>} */
const RANGES = { difference: 'B − A', agreement: 'agreement' }
/** @type {Record<string, string>} */
const OVERLAYS = { objects: 'mask', labels: 'labels', trees: 'tree', restyled: 'styled' }
// the image that was looked at last, for coming back to it
let left = -1

/** @type {import('./main.js').Screen} */
export const compare = { title: 'Compare', fits: (about) => about.other !== null, show }

/** @param {import('./main.js').View} view */
async function show(view) {
  view.place.append(h('h1', {}, 'Compare'))
  const { about } = view
  if (!about.other) return void view.place.append(h('p', { class: 'state' }, 'One run is open. Two of one command can be compared: ', command('simsam view OUT OTHER'), '.'))
  const theirs = new Set(about.other.stages.map((/** @type {any} */ each) => each.name))
  const stages = about.stages.filter((/** @type {any} */ each) => each.of_images && theirs.has(each.name)).map((/** @type {any} */ each) => each.name)
  if (!stages.length) {
    const of = (/** @type {any} */ run) => run.stages.map((/** @type {any} */ each) => each.command)[0] ?? 'nothing'
    return void view.place.append(none(`The runs are of different commands, ${of(about)} and ${of(about.other)}: they have no stage in common. Runs of one command can be compared.`))
  }
  const place = view.place.appendChild(h('div'))
  const row = view.address.path[0]
  if (!row) return list(view, place, stages)
  const asked = read(view.address.query, stages)
  await when(place, 'the comparison', () => ask(`api/compare/${encodeURIComponent(row)}`, { ...asked, page: null }, view.signal), (found) => {
    left = found.row_a
    const page = found.place === null ? asked.page : 1 + Math.floor(found.place / PAGE)
    return twice(view, found, { ...asked, page: page === 1 ? null : page })
  })
}

/** Which list an address asks for. @param {Record<string, string>} query @param {string[]} stages */
function read({ stage, q, metric, sort, desc, difference, agreement, page }, stages) {
  return { stage: stage ?? stages[0], q, metric, sort: sort ?? null, desc: desc ? 1 : null, difference, agreement, page: Math.max(1, Number.parseInt(page, 10) || 1) }
}

/** @param {import('./main.js').View} view @param {HTMLElement} place @param {string[]} stages */
async function list(view, place, stages) {
  let asked = read(view.address.query, stages)
  let last = new AbortController()
  const stage = view.about.stages.find((/** @type {any} */ each) => each.name === asked.stage)
  if (!stage || !stages.includes(asked.stage)) return void fill(place, none(`The runs have no stage ${asked.stage} in common; they have ${stages.join(', ')}.`))
  const filter = filterLine({
    text: asked.q ?? '', columns: [{ name: 'id', kind: 'id' }, { name: 'flag', kind: 'words' }, ...stage.columns],
    words: async (of) => {
      const { facets } = await ask('api/facets', { stage: asked.stage, names: of }, view.signal)
      return (facets[of]?.values ?? []).map((/** @type {any[]} */ [word]) => word)
    },
    changed: (q, done) => { if (done && q !== (asked.q ?? '')) change({ q }) },
  })
  const body = h('div')
  fill(place, filter.element, body)
  await load()
  /** @type {HTMLElement | null} */
  const came = place.querySelector(`[data-row="${left}"] a`)
  left = -1
  came?.focus({ preventScroll: true })
  came?.scrollIntoView({ block: 'center' })

  /** @param {boolean} [still] what is there stays until the answer comes */
  async function load(still = false) {
    last.abort()
    last = new AbortController()
    const signal = AbortSignal.any([view.signal, last.signal])
    const { page, ...rest } = asked
    let focus = () => {}
    await when(body, 'the comparison', () => ask('api/compare', { ...rest, offset: (page - 1) * PAGE, limit: PAGE }, signal), (found) => {
      filter.fault()
      focus = focusKept(body)
      return whole(found, signal)
    }, still, (error) => { if (error.more?.at !== undefined) filter.fault(error.message, error.more.at) })
    if (!signal.aborted) focus()
  }

  /** @param {Record<string, any>} more */
  function address(more, path = /** @type {number[]} */ ([])) {
    const then = { ...asked, ...more }
    return to('compare', path, { ...then, sort: then.sort === 'difference' ? null : then.sort, page: then.page === 1 || path.length ? null : then.page })
  }

  /** The same screen with another list. @param {Record<string, any>} more */
  function change(more) {
    const hash = address({ page: 1, ...more })
    if (hash === location.hash) return Promise.resolve()
    step(hash)
    asked = read(here().query, stages)
    return load(true)
  }

  /** @param {number} page */
  async function turn(page) {
    await change({ page })
    const first = /** @type {HTMLElement | null} */ (place.querySelector('ul.both a'))
    first?.focus({ preventScroll: true })
    first?.scrollIntoView({ block: 'center' })
  }

  /** @param {any} found @param {AbortSignal} signal */
  function whole(found, signal) {
    const most = Math.ceil(found.total / PAGE)
    const names = namesOf(view.about)
    const meaning = (/** @type {string} */ of) => [of, stage.columns.find((/** @type {any} */ each) => each.name === of)?.doc.split(';')[0].slice(0, 90)].filter(Boolean).join(': ')
    const sorts = Object.keys(SORTS).filter((each) => each !== 'agreement' || found.agreement)
    const sort = asked.sort ?? 'difference'
    say(`${shown(found.total)} images`)
    view.keys({
      '/': { does: 'filter', run: (event) => { event.preventDefault(); document.getElementById('filter')?.focus() } },
      PageDown: { does: 'next page', run: () => { if (asked.page < most) turn(asked.page + 1) } },
      PageUp: { does: 'page before', run: () => { if (asked.page > 1) turn(asked.page - 1) } },
    })
    const choose = (/** @type {string} */ label, /** @type {string[][]} */ values, /** @type {string} */ now, /** @type {(value: string) => any} */ more) => {
      const select = h('select', { id: `compare-${label}`, onchange: () => change(more(select.value)) }, values.map(([each, words]) => h('option', { value: each, selected: each === now }, words)))
      return h('label', {}, label, ' ', select)
    }
    const ranged = (/** @type {'difference' | 'agreement'} */ of) => histogram(RANGES[of], of === 'difference' ? found.histogram : found.agreement.histogram, ends(asked[of]), (low, high) => change({ [of]: low || high ? `${low}..${high}` : null }))
    const means = h('div')
    if (found.metric) when(means, 'the means', () => ask('api/compare/means', { stage: asked.stage, q: asked.q, metric: found.metric }, signal), (held) => meansOf(held, names))
    const cells = new Map()
    const furthest = Math.max(1e-9, ...found.rows.map((/** @type {any} */ row) => Math.abs(row.difference ?? 0)))
    const items = found.rows.map((/** @type {any} */ row) => item(row, cells, furthest))
    if (found.agreement && items.length) agreementsOf(asked.stage, cells, signal)
    return [
      h('p', {}, 'A is ', h('strong', {}, name(names[0], 60)), ', B is ', h('strong', {}, name(names[1], 60)), `. ${shown(found.common)} images are in both; ${shown(found.only_a)} in A alone, ${shown(found.only_b)} in B alone`
        + (found.other_content ? `; ${shown(found.other_content)} have one name and other contents, and are left out.` : '; those of one name have the same content.')),
      h('div', { class: 'choices' },
        stages.length > 1 ? h('label', {}, 'stage', h('select', { id: 'compare-stage', onchange: (/** @type {any} */ event) => go(to('compare', [], { stage: event.target.value })) }, stages.map((each) => h('option', { selected: each === asked.stage }, each)))) : null,
        found.metric ? choose('number', found.metrics.map((/** @type {string} */ each) => [each, meaning(each)]), found.metric, (value) => ({ metric: value, difference: null })) : null,
        choose('sort', sorts.map((each) => [each, SORTS[each]]), sort, (value) => ({ sort: value })),
        h('button', { type: 'button', id: 'compare-turn', onclick: () => change({ desc: asked.desc ? null : 1 }) }, asked.desc ? '↓ ' : '↑ ', sort === 'id' ? (asked.desc ? 'backwards' : 'forwards') : asked.desc ? 'greatest first' : 'smallest first')),
      restricted(found),
      found.metric || !found.common ? null : none('The runs have no number in common.'),
      h('div', { class: 'figures' },
        found.metric ? means : null,
        found.metric && found.histogram.edges.length ? h('section', { id: 'spread-difference', 'aria-label': 'Images by B − A' }, h('h2', {}, `B − A of ${found.metric}`), ranged('difference')) : null,
        !found.common ? null : found.agreement ? agreement({ view, stage: asked.stage, q: asked.q ?? '', found, sorted: sort === 'agreement' && !asked.desc, lowest: address({ sort: 'agreement', desc: null, page: 1 }), asks: sort === 'agreement' || Boolean(asked.agreement), bars: () => ranged('agreement'), again: () => load(true) })
          : h('div', {}, none(`Agreement: none; it is of object masks.${found.kind === 'labels' ? ' Label maps are scored over all images together: the numbers here are those that each image has of its own.' : ''}`))),
      items.length ? h('ul', { class: 'both' }, items) : none(found.common ? 'No image is in both and in the filter.' : 'The runs have no image in common: what is in both has one name and the same content.'),
      most > 1 ? h('nav', { class: 'pages', id: 'compare-pages', 'aria-label': 'Pages', onclick: turned }, pages(asked.page, most, (page) => address({ page }))) : null,
      h('h2', {}, 'Settings that differ'),
      found.settings.length ? settings(found.settings, names) : none('None.'),
    ]
  }

  /** @param {MouseEvent} event */
  function turned(event) {
    const link = /** @type {HTMLElement} */ (event.target).closest('a')
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
    event.preventDefault()
    turn(Number(link.dataset.page))
  }

  /** How many images are listed, and the ranges that they are in, each to be taken away. @param {any} found */
  function restricted(found) {
    const held = /** @type {('difference' | 'agreement')[]} */ (Object.keys(RANGES)).filter((each) => asked[/** @type {'difference'} */ (each)])
    return h('p', { class: 'restricted', id: 'restricted' }, h('strong', {}, shown(found.total)), found.total === found.common ? ' images' : ` of ${shown(found.common)} images`, held.length ? ', with ' : null,
      held.map((each) => {
        const words = `${RANGES[each]}${each === 'difference' ? ` of ${found.metric}` : ''} ${spoken(ends(asked[each]))}`
        return h('button', { type: 'button', 'aria-label': `${words}: take away`, onclick: () => change({ [each]: null }) }, words, h('span', { 'aria-hidden': 'true' }, ' ×'))
      }))
  }

  /** @param {any} row @param {Map<string, HTMLElement>} cells for the agreements @param {number} furthest of all that are shown */
  function item(row, cells, furthest) {
    const masks = stage.kind
    const overlay = OVERLAYS[masks] ?? 'none'
    const picture = (/** @type {string} */ run, /** @type {number} */ of, /** @type {string} */ v) => pictured(url(`images/${of}.jpg`, { run, stage: asked.stage, side: 256, overlay, v }), '')
    const cell = h('dd', {}, shown(row.agreement))
    if (row.agreement === null) cells.set(String(row.row_a), cell)
    const value = (/** @type {string} */ of, /** @type {any} */ told) => [h('dt', {}, of), told instanceof Element ? told : h('dd', {}, told)]
    return h('li', { 'data-row': row.row_a }, h('a', { href: address({}, [row.row_a]) }, h('span', { class: 'two' }, picture('a', row.row_a, row.v_a), picture('b', row.row_b, row.v_b)), name(row.id, 40)),
      h('dl', {}, value('A', shown(row.a)), value('B', shown(row.b)), value('B − A', signed(row.difference)), masks === 'objects' ? value('agreement', cell) : null),
      Number.isFinite(row.difference) ? h('span', { class: 'lean', 'aria-hidden': 'true' }, h('span', { style: { left: `${row.difference < 0 ? 50 + 50 * row.difference / furthest : 50}%`, width: `${50 * Math.abs(row.difference) / furthest}%` } })) : null)
  }
}

/** The ends of a range of an address. @param {string | undefined} text @returns {[string, string]} */
function ends(text) {
  const [low, high] = (text ?? '').split('..')
  return [low, high ?? '']
}

/** @param {[string, string]} ends */
function spoken([low, high]) {
  const told = (/** @type {string} */ end) => String(end).replaceAll('-', '−')
  return low && high ? `from ${told(low)} to below ${told(high)}` : low ? `from ${told(low)} on` : `below ${told(high)}`
}

/** What two runs are called: the last parts of their places, as few as tell them apart. @param {any} about @returns {[string, string]} */
function namesOf(about) {
  const [a, b] = [about.url, about.other.url].map((each) => each.replace(/\/+$/, '').split('/'))
  for (let parts = 1; parts < 4; parts++) {
    const [one, other] = [a, b].map((each) => each.slice(-parts).join('/'))
    if (one !== other) return [one, other]
  }
  return [about.url, about.other.url]
}

/** @param {any} found @param {[string, string]} names */
function meansOf(found, names) {
  if (!found.runs.length) return none('No image has this number in both.')
  const [a, b] = found.runs
  const line = (/** @type {any[]} */ of, /** @type {string} */ value, /** @type {string} */ interval) =>
    h('tr', {}, h('th', { scope: 'row' }, of), h('td', { class: 'number' }, value), h('td', { class: 'number' }, interval))
  const of = (/** @type {string} */ letter, /** @type {string} */ run) => [letter, ' ', h('span', { class: 'muted' }, name(run, 24))]
  const between = (/** @type {number[]} */ [low, high], /** @type {(value: number) => string} */ told) => `${told(low)} to ${told(high)}`
  return [h('h2', {}, 'Means'), wide('Means', h('table', {}, h('caption', {}, `${found.metric} over ${shown(found.images)} images`), h('thead', {}, h('tr', {}, ['', 'mean', '95 % interval'].map((each) => (each ? h('th', { scope: 'col' }, each) : h('td', {}))))),
    h('tbody', {}, line(of('A', names[0]), shown(a.mean), between(a.ci, shown)), line(of('B', names[1]), shown(b.mean), between(b.ci, shown)), line(['B − A'], signed(b.difference), between(b.difference_ci, signed))))),
  h('p', {}, `B is higher in ${shown(b.wins)}, lower in ${shown(b.losses)}, the same in ${shown(b.ties)}.`)]
}

/** @param {any[][]} differing @param {[string, string]} names */
function settings(differing, names) {
  const value = (/** @type {any} */ of) => h('td', {}, of === null || of === '' ? '–' : h('code', {}, String(of)))
  return h('table', { class: 'settings' }, h('caption', {}, 'By their names in docs/settings.md; what is not here is the same in both.'),
    h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'setting'), names.map((each, i) => h('th', { scope: 'col' }, `${'AB'[i]}: `, name(each, 40))))),
    h('tbody', {}, differing.map(([of, a, b]) => h('tr', {}, h('th', { scope: 'row' }, of), value(a), value(b)))))
}
