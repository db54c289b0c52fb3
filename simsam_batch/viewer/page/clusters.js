// The labels that a whole collection shares: a line for each, some of its regions, and how they fit true classes.

import { to } from './address.js'
import { ask } from './asking.js'
import { h, name, shown, wide } from './dom.js'
import { cutOut, elsewhere, gallery, percent, swatch, whenThere } from './regions.js'
import { none, when } from './states.js'

/** By the width of the window: as many as stand in one line. @type {[number, number][]} */
const EXAMPLES = [[1240, 8], [900, 5], [600, 3], [0, 2]]

/** @param {any} stage whether its rows can have labels that all images share */
const labelled = (stage) => stage.of_images && (stage.kind === 'labels' || stage.kind === 'trees')

/** @type {import('./main.js').Screen} */
export const clusters = { title: 'Clusters', fits: (about) => about.stages.some(labelled), show }

/** @param {import('./main.js').View} view */
async function show(view) {
  /** @type {string[]} */
  const stages = view.about.stages.filter(labelled).map((/** @type {any} */ stage) => stage.name)
  const [stage = stages[0], label] = view.address.path
  if (label !== undefined) return gallery(view, stage, label)
  view.place.append(h('h1', {}, 'Clusters'))
  if (stage === undefined) {
    view.place.append(none('No stage of this run has labels that all images share.', 'simsam semantic IMAGES OUT'))
    return
  }
  if (stages.length > 1) {
    view.place.append(h('p', { class: 'choices', role: 'group', 'aria-label': 'Stage' }, stages.map((each) =>
      h('a', { href: to('clusters', [each]), 'aria-current': each === stage ? 'page' : null }, each))))
  }
  const place = view.place.appendChild(h('div'))
  await whenThere(place, 'the labels', () => ask(`api/clusters/${encodeURIComponent(stage)}`, {}, view.signal), (found) => overview(view, stage, found))
}

/** @typedef {{label: number, images: number, regions: number, share: number, class: string | null, iou: number | null, color: string}} Cluster */

/** @type {Record<string, (each: Cluster) => number | null>} */
const SORTS = { label: (each) => each.label, iou: (each) => each.iou ?? null, images: (each) => each.images, regions: (each) => each.regions, share: (each) => each.share }

/** @param {import('./main.js').View} view @param {string} stage @param {any} found */
function overview(view, stage, found) {
  if (!found.clusters.length) {
    return none(found.complete ? 'No image of this stage has a region with a label.' : 'No region has a label yet: no shard with labels is committed. R shows what is new.')
  }
  const { query } = view.address
  const sort = query.sort in SORTS ? query.sort : 'images'
  const down = query.sort in SORTS ? query.desc === '1' : true
  const kind = found.classes ? 'class' : 'label'
  const trees = found.kind === 'trees'
  const named = found.matched || (found.classes && found.clusters.some((/** @type {Cluster} */ each) => each.class && each.class !== `class ${each.label}`))
  const fits = found.matched || found.clusters.some((/** @type {Cluster} */ each) => each.iou !== null && each.iou !== undefined)
  const most = /** @type {[number, number]} */ (EXAMPLES.find(([from]) => window.innerWidth >= from))[1]
  const watched = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue
      watched.unobserve(entry.target)
      examples(view, stage, trees, most, /** @type {HTMLElement} */ (entry.target))
    }
  }, { rootMargin: '300px' })
  view.signal.addEventListener('abort', () => watched.disconnect())
  const head = (/** @type {string} */ by, /** @type {string} */ text, number = true) => {
    const way = by === sort ? !down : by !== 'label'
    return h('th', { scope: 'col', class: number ? 'number' : null, 'aria-sort': by === sort ? (down ? 'descending' : 'ascending') : null },
      h('a', { href: to('clusters', [stage], { sort: by, desc: way ? 1 : '' }) }, text, h('span', { 'aria-hidden': 'true' }, by === sort ? (down ? ' ▾' : ' ▴') : '')))
  }
  const lines = sorted(found.clusters, SORTS[sort], down).map((each) => {
    const place = h('div', { class: `cut-outs of-${most}`, 'data-label': each.label })
    watched.observe(place)
    return h('tr', {},
      h('th', { scope: 'row' }, swatch(each.color), h('a', { href: to('clusters', [stage, each.label]) }, `${kind} ${each.label}`)),
      h('td', {}, place),
      named ? h('td', {}, each.class ? name(each.class, 40) : h('span', { class: 'muted' }, 'none')) : null,
      fits ? h('td', { class: 'number' }, shown(each.iou, 2)) : null,
      h('td', { class: 'number' }, shown(each.images)), h('td', { class: 'number' }, shown(each.regions)), h('td', { class: 'number' }, percent(each.share)),
      h('td', {}, h('a', { class: 'filter', href: elsewhere(stage, each.label, trees), 'aria-label': `filter Browse by ${kind} ${each.label}` }, 'Browse')))
  })
  return [
    h('p', { class: 'note' }, `${shown(found.total)} regions of ${shown(found.images)} images${found.complete ? '' : ', as far as the run is; R shows what is new'}. `,
      trees ? 'Regions are nodes of trees: they lie in each other, so that a share is one of what all of them cover together. Nodes of label 0 are of no cluster, and left out.'
        : 'A share is the mean one of an image.',
      found.rest === null || found.rest === undefined ? '' : ` ${found.classes ? `Class 0${found.nought && found.nought !== 'class 0' ? `, ${found.nought}, has no regions: it` : ' has no regions: it'} is` : 'Label 0 is background,'} what no region covers: ${found.rest < 0.0005 ? 'nothing here' : `${percent(found.rest)} of an image in the mean`}.`,
      found.matched ? ' The class of a label is the one that it was matched to.' : ''),
    wide('Labels', h('table', { class: 'labels' },
      h('thead', {}, h('tr', {}, head('label', kind, false), h('th', { scope: 'col' }, 'regions at random'), named ? h('th', { scope: 'col' }, found.classes ? 'name' : 'class') : null,
        fits ? head('iou', 'IoU') : null, head('images', 'images'), head('regions', 'regions'), head('share', 'share'), h('td'))),
      h('tbody', {}, lines))),
    found.confusion ? confusion(found.confusion, kind) : none(`There is no confusion with truth: ${found.complete ? 'none was given to this stage.' : 'the run is not published yet.'}`),
  ]
}

/** What has no value comes last. @param {Cluster[]} clusters @param {(each: Cluster) => number | null} value @param {boolean} down */
function sorted(clusters, value, down) {
  return clusters.toSorted((one, other) => {
    const [a, b] = [value(one), value(other)]
    if (a === null || b === null) return (a === null ? 1 : 0) - (b === null ? 1 : 0)
    return (down ? b - a : a - b) || one.label - other.label
  })
}

/** @param {import('./main.js').View} view @param {string} stage @param {boolean} trees @param {number} most @param {HTMLElement} place */
async function examples(view, stage, trees, most, place) {
  const label = Number(place.dataset.label)
  await when(place, 'regions', () => ask(`api/clusters/${encodeURIComponent(stage)}/${label}`, { limit: most }, view.signal),
    (found) => found.regions.map((/** @type {import('./regions.js').Region} */ region) => cutOut(stage, { label, trees }, region, 128, false, `${label},random,1`)))
}

/** @param {any} found @param {string} kind */
function confusion(found, kind) {
  return h('section', {}, h('h2', {}, 'Confusion with truth'),
    h('p', { class: 'note' }, `Of each true class's pixels the share in percent that has each ${kind}. ${found.about}${found.left_out ? ` ${found.left_out} smaller classes are left out.` : ''}`),
    wide('Confusion with truth', h('table', { class: 'confusion' },
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, kind), found.classes.map((/** @type {string} */ each) => h('th', { scope: 'col', class: 'number' }, name(each, 24))))),
      h('tbody', {}, found.lines.map((/** @type {[number, string, [string, number][]]} */ [label, stands, cells]) =>
        h('tr', {}, h('th', { scope: 'row' }, stands ? [`${label} (`, name(stands, 24), ')'] : label),
          cells.map(([text, shade]) => h('td', { class: `number shade-${shade}` }, text))))))))
}
