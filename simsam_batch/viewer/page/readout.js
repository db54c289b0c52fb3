// What lies under a point of the picture, in words: the text twin of its layers.

import { printed } from './dom.js'
import { boxesOf } from './drawn.js'
import { cellAt } from './layers.js'
import { pathTo } from './tree.js'

/** @typedef {import('./found.js').Found} Found */
/** @typedef {import('./pane.js').Looks} Looks */

/**
 * @param {Found} found @param {Looks} looks
 * @param {[number, number]} point shares of the image's width and height
 * @param {object} at
 * @param {Float64Array} [at.lift] affinity that is shown @param {import('./cosines.js').Row} [at.cosine] that is shown @param {number | null} at.patch of which @param {boolean} at.pinned
 * @param {import('./tree.js').Node[] | null} at.nodes @param {number | null} at.node under the point
 * @returns {{words: string[], value: number | null}} the value of what lies over the whole picture
 */
export function readAt(found, looks, [x, y], at) {
  const area = found.nameOf(looks.area)
  const words = [`x ${Math.floor(x * found.size[0])}, y ${Math.floor(y * found.size[1])}`]
  let value = null
  const eigen = found.offer('eigenvector') ? found.eigen() : null
  const pinned = at.pinned ? ', pinned' : ''
  const patches = at.cosine?.cells ?? eigen?.cells
  if (patches) {
    const cell = cellAt(patches, x, y)
    words.push(`patch ${cell} (row ${Math.floor(cell / patches.width)}, column ${cell % patches.width})`)
    if (at.cosine) { value = patches.values[cell]; words.push(`cosine ${value.toFixed(4)} to patch ${at.cosine.patch}${pinned}`) }
  }
  if (eigen) {
    const { cells, count, vectors } = eigen
    const cell = cellAt(cells, x, y)
    if (eigen.outside?.values[cell]) words.push('left out of the graph')
    if (area === 'eigenvector') { value = vectors[looks.k * count + cell]; words.push(`eigenvector ${looks.k}: ${printed(value.toPrecision(4))}`) }
    if (area === 'affinity' && at.lift) {
      value = at.lift[cell]
      words.push(`${printed(value.toPrecision(4))} × chance to patch ${at.patch}${pinned}`)
    }
  }
  if (area === 'tree' && at.nodes && at.node !== null) { value = at.node; words.push(`node ${pathTo(at.nodes, at.node).join(' › ')}`) }
  const offer = found.offer(looks.area)
  if (offer && (area === 'labels' || area === 'regions')) {
    const cells = found.cells(offer)
    if (cells) {
      value = cells.values[cellAt(cells, x, y)]
      const what = area === 'labels' ? 'label' : 'region'
      const named = area === 'labels' ? found.stage(offer.stage).legend?.[value]?.[1] : ''
      words.push(value === cells.ignore ? `no ${what}` : `${what} ${value}${named ? ` ${named}` : ''}`)
    }
  }
  for (const each of found.offers) {
    if (!each.there || !looks.lines.has(each.key)) continue
    const title = each.key === each.name ? each.name : `${each.name} of ${each.stage}`
    if (each.name === 'box') {
      const inside = boxesOf(found, each).flatMap((box, i) => (inBox(box, x * found.size[0], y * found.size[1]) ? [i + 1] : []))
      words.push(inside.length ? `in ${title} ${inside.join(', ')}` : `outside every ${title}`)
      continue
    }
    const cells = found.cells(each)
    if (!cells) continue
    const of = cells.values[cellAt(cells, x, y)]
    if (each.name === 'outside') { if (!eigen) words.push(of ? 'left out of the graph' : 'in the graph') } else words.push(`${title} ${wordOf(found, each, cells, of)}`)
  }
  return { words, value }
}

/** @param {number[]} box @param {number} x @param {number} y in pixels */
function inBox([left, top, right, bottom], x, y) {
  return x >= left && x < right && y >= top && y < bottom
}

/** @param {Found} found @param {import('./offers.js').Offer} offer @param {import('./layers.js').Cells} cells @param {number} value */
function wordOf(found, offer, cells, value) {
  if (offer.name !== 'truth') return String(value)
  if (value === cells.ignore) return 'not said'
  const name = found.stage(offer.stage).truth?.[value]?.[1]
  return name ? `${value} ${name}` : String(value)
}
