// The layers of an image as they are drawn: what lies over the whole of it, and what goes around parts.

import { liftRow, quantile } from './affinity.js'
import { shown } from './dom.js'
import { anyColor, colored, colorOf, css, edges, hatching, middleOf, OBJECTS, rising, TRUTH } from './layers.js'
import { LINES } from './offers.js'
import { nodesAt } from './tree.js'

/** @typedef {import('./canvas.js').Layer} Layer */
/** @typedef {import('./found.js').Found} Found */
/** @typedef {import('./layers.js').Cells} Cells */
/** @typedef {import('./offers.js').Offer} Offer */
/** @typedef {import('./pane.js').Looks} Looks */

/**
 * @typedef {object} Area
 * @property {Layer[]} layers
 * @property {import('./legend.js').Scale | import('./legend.js').List | null} legend
 * @property {[number, number]} [cross] the point that it is about
 * @property {Float64Array} [lift] affinity of the patch to each
 * @property {import('./cosines.js').Row} [cosine] of a patch to each
 * @property {Int32Array} [cut] the node shown of each node's region
 */

const HATCHED = { color: '#c9d2dc', thick: 0.8 }
const CHOSEN = { color: '#ffe14d', thick: 3 }

/** @param {Cells} cells @returns {{grid: [number, number], cover: [number, number]}} */
function placeOf({ height, width, cover }) {
  return { grid: [height, width], cover }
}

/**
 * What lies over the whole picture; null while it is on its way.
 * @param {Found} found @param {Looks} looks
 * @param {{patch: number | null, cosine: import('./cosines.js').Row | null, nodes: import('./tree.js').Node[] | null, node: number | null}} at whose affinity; which cosine; the tree; which of its nodes is outlined
 * @param {{vector: HTMLCanvasElement, lift: HTMLCanvasElement}} canvases to be used again
 * @returns {Area | null}
 */
export function areaOf(found, looks, at, canvases) {
  const offer = found.offer(looks.area)
  if (!offer) return { layers: [], legend: null }
  if (offer.name === 'eigenvector') return eigenvector(found, looks, canvases.vector)
  if (offer.name === 'affinity') return affinity(found, looks, at.patch ?? 0, canvases.lift)
  if (offer.name === 'cosine') return at.cosine && cosine(looks, at.cosine, canvases.lift)
  const cells = found.cells(offer)
  if (!cells) return null
  if (offer.name === 'tree') return at.nodes ? level(found, looks, cells, at.nodes, at.node) : null
  return map(found, looks, offer, cells)
}

/** @param {Looks} looks */
function common(looks) {
  return { alpha: looks.opacity, smooth: looks.smooth }
}

/** @param {Found} found @param {Looks} looks @param {HTMLCanvasElement} canvas @returns {Area | null} */
function eigenvector(found, looks, canvas) {
  const eigen = found.eigen()
  if (!eigen) return null
  looks.k = Math.max(0, Math.min(looks.k, eigen.values.length - 1))
  const limit = found.limit(eigen, looks.k)
  return {
    layers: [{ ...placeOf(eigen.cells), ...common(looks), cells: found.vector(eigen, looks.k, canvas) }, ...hatched(found, eigen.outside)],
    legend: { scale: 'diverging', title: `Eigenvector ${looks.k}, eigenvalue ${shown(eigen.values[looks.k], 4)}`, marks: [shown(-limit), '0', shown(limit)] },
  }
}

/** @param {Found} found @param {Looks} looks @param {number} patch @param {HTMLCanvasElement} canvas @returns {Area | null} */
function affinity(found, looks, patch, canvas) {
  const eigen = found.eigen()
  if (!eigen) return null
  const most = Math.min(looks.vectors || eigen.values.length, eigen.values.length)
  const lift = liftRow(eigen, patch, looks.t, most)
  const limit = Math.max(quantile(lift, 0.99), 1e-12)
  return {
    layers: [{ ...placeOf(eigen.cells), ...common(looks), cells: rising(lift, limit, eigen.cells.width, eigen.cells.height, canvas) }, ...hatched(found, eigen.outside)],
    legend: { scale: 'rising', title: `Affinity from ${most} eigenvectors, × chance`, marks: ['0', '', `${shown(limit, 2)} ×`] },
    cross: middleOf(eigen.cells, patch),
    lift,
  }
}

/** @param {Looks} looks @param {import('./cosines.js').Row} row @param {HTMLCanvasElement} canvas @returns {Area} */
function cosine(looks, row, canvas) {
  const { patch, cells } = row
  const values = Float64Array.from(cells.values)
  // a scale that keeps still while the patch is moved
  const least = Math.min(0.9, Math.floor(10 * values.reduce((a, b) => Math.min(a, b))) / 10)
  return {
    layers: [{ ...placeOf(cells), ...common(looks), cells: rising(values.map((each) => Math.max(0, each - least)), 1 - least, cells.width, cells.height, canvas) }],
    legend: { scale: 'rising', title: `Cosine to patch ${patch}`, marks: [least.toFixed(1), '', '1'] },
    cross: middleOf(cells, patch),
    cosine: row,
  }
}

/** @param {Found} found @param {Cells | null} outside @returns {Layer[]} */
function hatched(found, outside) {
  return outside ? [{ ...placeOf(outside), ...HATCHED, lines: found.once('hatching', () => hatching(outside)) }] : []
}

/** Labels, or regions. @param {Found} found @param {Looks} looks @param {Offer} offer @param {Cells} cells @returns {Area} */
function map(found, looks, offer, cells) {
  const named = offer.name === 'regions' ? {} : found.stage(offer.stage).legend ?? {}
  const color = (/** @type {number} */ value) => (named[value] ? colorOf(named[value][0]) : anyColor(value))
  const there = found.once(`${offer.key} values`, () => valuesOf(cells))
  return {
    layers: [{ ...placeOf(cells), alpha: looks.opacity, cells: found.once(offer.key, () => colored(cells, color)) },
      { ...placeOf(cells), thick: 1, lines: found.once(`${offer.key} edges`, () => edges(cells.width, cells.height, (i) => (cells.values[i] === cells.ignore ? 0 : cells.values[i] + 1))) }],
    legend: { key: offer.key, entries: there.map((value) => [css(color(value)), named[value]?.[1] ? `${value} ${named[value][1]}` : String(value)]) },
  }
}

/** The values that there are, ascending. @param {Cells} cells */
function valuesOf({ values, ignore }) {
  return [...new Set(Array.from(values))].filter((value) => value !== ignore).sort((a, b) => a - b)
}

/** A tree cut at a depth. @param {Found} found @param {Looks} looks @param {Cells} cells @param {import('./tree.js').Node[]} nodes @param {number | null} node @returns {Area} */
function level(found, looks, cells, nodes, node) {
  const cut = nodesAt(nodes, looks.depth)
  const colors = found.once('colors of nodes', () => nodes.map((each) => colorOf(each.color)))
  const of = (/** @type {number} */ i) => (cells.values[i] < 0 ? -1 : cut[cells.values[i]])
  /** @type {Layer[]} */
  const layers = [{ ...placeOf(cells), alpha: looks.opacity, cells: found.once(`level ${looks.depth}`, () => colored({ ...cells, ignore: -1 }, (value) => colors[cut[value]])) },
    { ...placeOf(cells), thick: 1, lines: found.once(`level edges ${looks.depth}`, () => edges(cells.width, cells.height, (i) => of(i) + 1)) }]
  if (node !== null && nodes[node]) {
    const { end } = nodes[node]
    layers.push({ ...placeOf(cells), ...CHOSEN, lines: found.once(`node ${node}`, () => edges(cells.width, cells.height, (i) => (cells.values[i] >= node && cells.values[i] < end ? 1 : 0))) })
  }
  return { layers, legend: null, cut }
}

/** What goes around parts of the picture. @param {Found} found @param {Looks} looks @returns {Layer[]} */
export function linesOf(found, looks) {
  // what is made of the graph has it hatched already
  const overGraph = ['eigenvector', 'affinity'].includes(found.nameOf(looks.area))
  const draw = /** @type {Record<string, (offer: Offer) => Layer[]>} */ ({
    mask: (offer) => mask(found, looks, offer), truth: (offer) => truth(found, looks, offer), box: (offer) => box(found, offer), outside: (offer) => (overGraph ? [] : hatched(found, found.cells(offer))) })
  return LINES.flatMap((name) => found.offers.filter((each) => each.name === name && each.there && looks.lines.has(each.key)).flatMap(draw[name]))
}

/** @param {Found} found @param {Looks} looks @param {Offer} offer @returns {Layer[]} */
function mask(found, looks, offer) {
  const cells = found.cells(offer)
  if (!cells) return []
  const place = placeOf(cells), color = (/** @type {number} */ object) => OBJECTS[(object - 1) % OBJECTS.length]
  if (looks.style === 'cut') return [{ ...place, cut: true, cells: found.once(`${offer.key} cut`, () => colored({ ...cells, ignore: 0 }, () => [0, 0, 0])) }]
  const objects = found.once(`${offer.key} objects`, () => valuesOf({ ...cells, ignore: 0 }).reverse())
  /** @type {Layer[]} */
  const layers = looks.style === 'fill' ? [{ ...place, alpha: 0.45, cells: found.once(`${offer.key} fill`, () => colored({ ...cells, ignore: 0 }, color)) }] : []
  return [...layers, ...objects.map((object) =>
    ({ ...place, color: css(color(object)), lines: found.once(`${offer.key} ${object}`, () => edges(cells.width, cells.height, (i) => (cells.values[i] === object ? 1 : 0))) }))]
}

/** @param {Found} found @param {Looks} looks @param {Offer} offer @returns {Layer[]} */
function truth(found, looks, offer) {
  const cells = found.cells(offer)
  if (!cells) return []
  const object = found.stage(offer.stage).kind === 'objects', key = `${offer.key} ${found.drawing}`
  const kind = (/** @type {number} */ i) => (cells.values[i] === cells.ignore ? 0 : object ? cells.values[i] : cells.values[i] + 1)
  /** @type {Layer[]} */
  const layers = looks.truth === 'fill' ? [{ ...placeOf(cells), alpha: 0.5, cells: found.once(`${key} fill`, () => colored(cells, (value) => (object ? (value ? TRUTH : null) : truthColor(found, offer, value)))) }] : []
  return [...layers, { ...placeOf(cells), dashed: true, color: css(TRUTH), lines: found.once(key, () => edges(cells.width, cells.height, kind)) }]
}

/** @param {Found} found @param {Offer} offer @param {number} value */
function truthColor(found, offer, value) {
  const color = found.stage(offer.stage).truth?.[value]?.[0]
  return color ? colorOf(color) : anyColor(value)
}

/**
 * What the truth that is drawn consists of: classes by name, with their colours where they are filled in.
 * @param {Found} found @param {Looks} looks @returns {import('./legend.js').List | null} none of objects, and none of truth that is on its way
 */
export function truthLegend(found, looks) {
  const offer = found.offers.find((each) => each.name === 'truth' && each.there && looks.lines.has(each.key))
  const cells = found.cells(offer)
  if (!offer || !cells || found.stage(offer.stage).kind === 'objects') return null
  const names = found.stage(offer.stage).truth ?? {}
  const there = found.once(`${offer.key} ${found.drawing} values`, () => valuesOf(cells))
  const drawing = (cells.drawings ?? 1) > 1 ? `, drawing ${found.drawing + 1} of ${cells.drawings}` : ''
  const filled = looks.truth === 'fill', named = there.some((value) => names[value]?.[1])
  const entry = (/** @type {number} */ value) => /** @type {[string, string]} */ ([filled ? css(truthColor(found, offer, value)) : '', names[value]?.[1] ? `${value} ${names[value][1]}` : String(value)])
  return { key: `${offer.key} ${found.drawing} ${filled}`, title: `Truth: ${there.length} ${named ? 'classes' : 'regions'}${drawing}`, entries: named || filled ? there.map(entry) : [] }
}

/** @param {Found} found @param {Offer} offer @returns {Layer[]} */
function box(found, offer) {
  return boxesOf(found, offer).map((each, i) => {
    const path = new Path2D()
    path.rect(each[0], each[1], each[2] - each[0], each[3] - each[1])
    return { grid: [found.size[1], found.size[0]], cover: [1, 1], lines: path, thick: 1.5, color: i ? css(OBJECTS[i % OBJECTS.length]) : '#ffffff' }
  })
}

/** Tight boxes of objects, x0, y0, x1, y1 in pixels, the surest first. @param {Found} found @param {Offer} offer @returns {number[][]} */
export function boxesOf(found, offer) {
  const { columns } = found.stage(offer.stage)
  const several = columns.objects?.map?.((/** @type {any} */ each) => each.bbox_xyxy).filter(Boolean)
  return several?.length ? several : columns.bbox_xyxy ? [columns.bbox_xyxy] : []
}
