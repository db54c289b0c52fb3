// The regions of one label: cut out of their photographs, sixty a page, each a link to its image.

import { go, to } from './address.js'
import { ask, url } from './asking.js'
import { h, name, say, shown } from './dom.js'
import { pages } from './pages.js'
import { none, when } from './states.js'

const PAGE = 60
const ORDERS = ['random', 'largest', 'smallest']

/** @typedef {{row: number, id: string, region: number, box: number[] | null, area: number, v: string}} Region */

/** Where the eye was when an image was opened, so that who comes back goes on from there. */
let left = { at: '', card: 0 }

/**
 * As `when`, where a stage without labels is no fault.
 * @param {Element} place @param {string} what @param {() => Promise<any>} get @param {(found: any) => any} make
 */
export function whenThere(place, what, get, make) {
  return when(place, what, async () => {
    try { return await get() } catch (error) {
      const more = /** @type {any} */ (error).more
      if (more?.none) return { none: true, command: more.command }
      throw error
    }
  }, (found) => found.none ? none('This stage has no labels that all images share.', found.command) : make(found))
}

/** The page of a gallery that an image was opened from. @param {string} stage @param {string} regions label, order and page, with commas between */
export function galleryOf(stage, regions) {
  const [label, order, page] = regions.split(',')
  return to('clusters', [stage, label], { order: order === 'random' ? '' : order, page: page === '1' ? '' : page })
}

/** @param {import('./main.js').View} view @param {string} stage @param {string} label */
export async function gallery(view, stage, label) {
  const { query } = view.address
  const order = ORDERS.includes(query.order) ? query.order : 'random'
  const page = Math.max(1, Math.floor(Number(query.page)) || 1)
  const at = (/** @type {Record<string, any>} */ more) => {
    const asked = { order, page, ...more }
    return galleryOf(stage, `${label},${asked.order},${asked.page}`)
  }
  const all = to('clusters', [stage])
  view.title(`Label ${label}`)
  /** @type {HTMLElement[]} */
  let cards = []
  let count = 1
  const move = (/** @type {number} */ by) => () => {
    const now = cards.indexOf(/** @type {HTMLElement} */ (document.activeElement))
    cards[now < 0 ? 0 : Math.min(cards.length - 1, Math.max(0, now + by))]?.focus()
  }
  const line = (/** @type {number} */ way) => () => move(way * abreast(cards))()
  view.keys({
    'ArrowLeft h': { does: 'region before', run: move(-1) },
    'ArrowRight l': { does: 'next region', run: move(1) },
    'ArrowUp k': { does: 'region above', run: line(-1) },
    'ArrowDown j': { does: 'region below', run: line(1) },
    Enter: { does: 'open the image of the region', run: () => (cards.includes(/** @type {HTMLElement} */ (document.activeElement)) ? undefined : cards[0]?.focus()) },
    PageDown: { does: 'next page', run: () => { if (page < count) go(at({ page: page + 1 })) } },
    PageUp: { does: 'page before', run: () => { if (page > 1) go(at({ page: page - 1 })) } },
    Escape: { does: 'to all labels', run: () => go(all) },
  })
  const up = h('p', {}, h('a', { href: all }, `All labels of ${stage}`))
  const place = h('div')
  view.place.append(up, place)
  await whenThere(place, 'the regions', () => ask(`api/clusters/${encodeURIComponent(stage)}/${encodeURIComponent(label)}`,
    { order, offset: (page - 1) * PAGE, limit: PAGE }, view.signal), (found) => {
    count = Math.ceil(found.total / PAGE)
    const turn = () => count > 1 ? h('nav', { class: 'pages', 'aria-label': 'Pages of regions' }, pages(page, count, (to_) => at({ page: to_ }))) : null
    const here = location.hash
    cards = found.regions.map((/** @type {Region} */ region, /** @type {number} */ i) => {
      const link = cutOut(stage, found, region, 256, true, `${found.label},${order},${page}`)
      link.addEventListener('focus', () => { left = { at: here, card: i } })
      return link
    })
    say(`${shown(found.total)} regions, page ${page} of ${count}`)
    return [
      h('h1', {}, swatch(found.color), `${found.kind === 'class' ? 'Class' : 'Label'} ${found.label}`, found.class && found.class !== `${found.kind} ${found.label}` ? [': ', name(found.class, 60)] : null),
      h('p', { class: 'note' }, `${shown(found.total)} ${found.total === 1 ? 'region' : 'regions'} in ${shown(found.images)} ${found.images === 1 ? 'image' : 'images'}`,
        found.complete ? '' : ', as far as the run is', found.iou === null || found.iou === undefined ? '.' : `; IoU ${shown(found.iou, 2)} over the set.`),
      h('p', {}, h('a', { href: elsewhere(stage, found.label, found.trees) }, 'Filter Browse by this label')),
      h('p', { class: 'choices', role: 'group', 'aria-label': 'Order' }, ORDERS.map((each) =>
        h('a', { href: at({ order: each, page: 1 }), 'aria-current': each === order ? 'true' : null }, each))),
      turn(),
      cards.length ? h('ul', { class: 'regions' }, cards.map((each) => h('li', {}, each)))
        : none(`There is no page ${page}: the regions end on page ${count}.`),
      turn(),
    ]
  })
  if (left.at === location.hash) cards[left.card]?.focus()
}

/** How many cards stand in a line. @param {HTMLElement[]} cards */
function abreast(cards) {
  const top = cards[0]?.getBoundingClientRect().top
  const next = cards.findIndex((each) => each.getBoundingClientRect().top > top + 4)
  return next < 0 ? cards.length : next
}

/** The images that have a label. @param {string} stage @param {number} label @param {boolean} trees */
export function elsewhere(stage, label, trees) {
  return to('browse', [], { stage, q: `label:${label}`, show: trees ? 'tree' : 'labels' })
}

/**
 * A region cut out, which leads to its image, among those that have the label.
 * @param {string} stage
 * @param {{label: number, trees: boolean}} of
 * @param {Region} region
 * @param {number} side
 * @param {boolean} told whether its image and its share stand below
 * @param {string} regions see `galleryOf`
 */
export function cutOut(stage, of, region, side, told, regions) {
  const [x0, y0, x1, y1] = region.box ?? [0, 0, 0, 0]
  const missing = (/** @type {string} */ why) => h('span', { class: 'picture muted' }, why)
  /** @type {HTMLElement} */
  let picture = missing('no pixels')
  if (x1 > x0 && y1 > y0) {
    const drawn = h('img', { class: 'picture', loading: 'lazy', decoding: 'async', alt: '', onerror: () => drawn.replaceWith(missing('the photograph cannot be read')) })
    drawn.src = url(`images/${region.row}.jpg`, { stage, side, region: region.region, v: region.v })
    picture = drawn
  }
  const where = to('image', [region.row], { stage, layer: of.trees ? 'tree' : 'labels', node: of.trees ? region.region : null, q: `label:${of.label}`, regions })
  return h('a', { class: 'cut-out', href: where, 'aria-label': told ? null : `${region.id}, ${percent(region.area)} of the image` },
    picture, told ? [h('span', { class: 'id' }, name(region.id, 28)), h('span', { class: 'muted' }, `${percent(region.area)} of the image`)] : null)
}

/** @param {string} color */
export function swatch(color) {
  return h('span', { class: 'swatch', 'aria-hidden': 'true', style: { background: color } })
}

/** @param {number} share */
export function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`
}
