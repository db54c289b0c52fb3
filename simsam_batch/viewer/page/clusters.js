// The labels that a whole collection shares: a line for each, a gallery of its regions, and how they fit true classes.

import { go, to } from './address.js'
import { ask, url } from './asking.js'
import { h, name, say, shown } from './dom.js'
import { none, when } from './states.js'

const PAGE = 60
const EXAMPLES = 8
const ORDERS = ['random', 'largest', 'smallest']

/** @param {any} stage whether its rows can have labels that all images share */
const labelled = (stage) => stage.of_images && (stage.kind === 'labels' || stage.kind === 'trees')

/** @type {import('./main.js').Screen} */
export const clusters = { title: 'Clusters', fits: (about) => about.stages.some(labelled), show }

/** @param {import('./main.js').View} view */
async function show(view) {
  const stages = view.about.stages.filter(labelled).map((/** @type {any} */ stage) => stage.name)
  const [stage = stages[0], label] = view.address.path
  if (label !== undefined) return gallery(view, stage, label)
  view.place.append(h('h1', {}, 'Clusters'), stages.length > 1 ? h('p', {}, 'Of ', stages.map((/** @type {string} */ each) =>
    [' ', h('a', { href: to('clusters', [each]), 'aria-current': each === stage ? 'page' : null }, each)]).flat()) : null ?? '')
  const place = view.place.appendChild(h('div'))
  await whenThere(place, 'the labels', () => ask(`api/clusters/${encodeURIComponent(stage)}`, {}, view.signal), (found) => overview(view, stage, found))
}

/**
 * As `when`, where a stage without labels is no fault.
 * @param {Element} place @param {string} what @param {() => Promise<any>} get @param {(found: any) => any} make
 */
function whenThere(place, what, get, make) {
  return when(place, what, async () => {
    try { return await get() } catch (error) {
      const more = /** @type {any} */ (error).more
      if (more?.none) return { none: /** @type {Error} */ (error).message, command: more.command }
      throw error
    }
  }, (found) => found.none ? none('This stage has no labels that all images share.', found.command) : make(found))
}

/** @param {import('./main.js').View} view @param {string} stage @param {any} found */
function overview(view, stage, found) {
  if (!found.clusters.length) return none('No region has a label yet.')
  const kind = found.classes ? 'class' : 'label'
  const fits = found.matched || found.clusters.some((/** @type {any} */ each) => each.iou !== null && each.iou !== undefined)
  const share = found.kind === 'trees' ? 'share of nodes, all levels together' : 'share of an image, mean'
  const watched = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue
      watched.unobserve(entry.target)
      examples(view, stage, found, /** @type {HTMLElement} */ (entry.target))
    }
  }, { rootMargin: '300px' })
  view.signal.addEventListener('abort', () => watched.disconnect())
  const lines = found.clusters.map((/** @type {any} */ each) => {
    const place = h('div', { class: 'cut-outs', 'data-label': each.label })
    watched.observe(place)
    return h('tr', {},
      h('th', { scope: 'row' }, swatch(each.color), h('a', { href: to('clusters', [stage, each.label]) }, `${kind} ${each.label}`)),
      found.matched || found.classes ? h('td', {}, each.class ? name(each.class, 40) : 'none') : null,
      fits ? h('td', { class: 'number' }, shown(each.iou, 2)) : null,
      h('td', { class: 'number' }, shown(each.images)), h('td', { class: 'number' }, shown(each.regions)),
      h('td', { class: 'number' }, percent(each.share)), h('td', {}, place))
  })
  const heads = [kind, found.matched || found.classes ? 'class' : null, fits ? 'IoU' : null, 'images', 'regions', share, 'regions at random']
  return [
    h('p', { class: 'note' }, `${shown(found.total)} regions of ${shown(found.images)} images${found.complete ? '' : ', as far as the run is'}. The label in most images comes first.`),
    h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'Labels' }, h('table', {},
      h('thead', {}, h('tr', {}, heads.filter(Boolean).map((each) => h('th', { scope: 'col' }, each)))), h('tbody', {}, lines))),
    found.confusion ? confusion(found.confusion, kind) : none('There is no confusion with truth: none was given, or the run is not published yet.'),
  ]
}

/** @param {import('./main.js').View} view @param {string} stage @param {any} about @param {HTMLElement} place */
async function examples(view, stage, about, place) {
  const label = place.dataset.label
  await when(place, 'regions', () => ask(`api/clusters/${encodeURIComponent(stage)}/${label}`, { limit: EXAMPLES }, view.signal),
    (found) => found.regions.map((/** @type {any} */ region) => cutOut(stage, about.kind, region, 128, false)))
}

/** @param {import('./main.js').View} view @param {string} stage @param {string} label */
async function gallery(view, stage, label) {
  const { query } = view.address
  const order = ORDERS.includes(query.order) ? query.order : 'random'
  const page = Math.max(1, Number(query.page) || 1)
  const kind = view.about.stages.find((/** @type {any} */ each) => each.name === stage)?.kind
  const at = (/** @type {Record<string, any>} */ more) => to('clusters', [stage, label], { order, page, ...more })
  view.title(`Label ${label}`)
  await whenThere(view.place, 'the regions', () => ask(`api/clusters/${encodeURIComponent(stage)}/${encodeURIComponent(label)}`,
    { order, offset: (page - 1) * PAGE, limit: PAGE }, view.signal), (found) => {
    const pages = Math.ceil(found.total / PAGE)
    say(`${found.total} regions`)
    view.keys({
      PageDown: { does: 'next page', run: () => { if (page < pages) go(at({ page: page + 1 })) } },
      PageUp: { does: 'page before', run: () => { if (page > 1) go(at({ page: page - 1 })) } },
      Escape: { does: 'to all labels', run: () => go(to('clusters', [stage])) },
    })
    return [
      h('p', {}, h('a', { href: to('clusters', [stage]) }, `All labels of ${stage}`)),
      h('h1', {}, swatch(found.color), `Label ${found.label}`, found.class ? [', ', name(found.class, 60)] : null),
      h('p', { class: 'note' }, `${shown(found.total)} regions in ${shown(found.images)} images${found.iou === null || found.iou === undefined ? '' : `; IoU ${shown(found.iou, 2)} over the set`}.`),
      h('p', { class: 'choices', role: 'group', 'aria-label': 'Order' }, ORDERS.map((each) =>
        h('a', { href: at({ order: each, page: 1 }), 'aria-current': each === order ? 'true' : null }, each))),
      found.regions.length ? h('ul', { class: 'cut-outs' }, found.regions.map((/** @type {any} */ region) => h('li', {}, cutOut(stage, kind, region, 256, true))))
        : none('There is no such page: the regions end before it.'),
      pages > 1 ? h('nav', { class: 'choices', 'aria-label': 'Pages' },
        page > 1 ? h('a', { href: at({ page: page - 1 }), rel: 'prev' }, 'Before') : null, ` ${page} of ${pages} `,
        page < pages ? h('a', { href: at({ page: page + 1 }), rel: 'next' }, 'Next') : null) : null,
    ]
  })
}

/** A region cut out, which leads to its image. @param {string} stage @param {string} kind @param {any} region @param {number} side @param {boolean} told */
function cutOut(stage, kind, region, side, told) {
  const trees = kind === 'trees'
  const [left, top, right, bottom] = region.box ?? [0, 0, 0, 0]
  const there = right > left && bottom > top
  const picture = there ? h('img', { loading: 'lazy', alt: '', src: url(`images/${region.row}.jpg`,
    { stage, side, overlay: trees ? 'none' : 'labels', box: region.box.join(), v: region.digest }) }) : h('span', { class: 'muted' }, 'no pixels')
  if (there) picture.addEventListener('error', () => picture.replaceWith(h('span', { class: 'muted' }, 'the photograph cannot be read')))
  return h('a', { class: 'cut-out', href: to('image', [region.row], { stage, layer: trees ? 'tree' : 'labels', node: trees ? region.region : null }),
    'aria-label': told ? null : `${region.id}, ${percent(region.area)} of the image` },
  picture, told ? h('span', {}, name(region.id, 24), ` ${percent(region.area)}`) : null)
}

/** @param {any} found @param {string} kind */
function confusion(found, kind) {
  return h('section', {}, h('h2', {}, 'Confusion'),
    h('p', { class: 'note' }, `Of each class's pixels the share in percent that has each ${kind}. ${found.about}${found.left_out ? ` ${found.left_out} smaller classes are left out.` : ''}`),
    h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'Confusion' }, h('table', { class: 'confusion' },
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, kind), found.classes.map((/** @type {string} */ each) => h('th', { scope: 'col' }, name(each, 24))))),
      h('tbody', {}, found.lines.map((/** @type {[number, string, [string, number][]]} */ [label, stands, cells]) =>
        h('tr', {}, h('th', { scope: 'row' }, stands ? `${label} (${stands})` : label),
          cells.map(([text, shade]) => h('td', { class: `number shade-${shade}` }, text))))))))
}

/** @param {string} color */
function swatch(color) {
  return h('span', { class: 'swatch', 'aria-hidden': 'true', style: { background: color } })
}

/** @param {number} share */
function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`
}
