// Cards: an image each, with what was found drawn over it and a few values, as a list of links.

import { to } from './address.js'
import { url } from './asking.js'
import { h, name, shown } from './dom.js'
import { flagBadge } from './flagging.js'

const SIDE = 256

/** @typedef {{row: number, v?: string, id: string, status: string, flag: any, values: Record<string, any>, error: {type: string, text: string} | null}} Row */

/**
 * @param {Row} row
 * @param {object} given
 * @param {string} given.stage
 * @param {Record<string, any>} given.list filter and order that it stands in, for its link
 * @param {string} given.overlay
 * @param {number} given.depth of the tree
 * @param {string[]} given.columns whose values are shown
 * @param {boolean} given.chosen
 * @param {(row: number, event: MouseEvent) => void} given.choose
 */
export function card(row, { stage, list, overlay, depth, columns, chosen, choose }) {
  const values = columns.filter((each) => row.values[each] !== null && row.values[each] !== undefined)
  const box = h('input', { type: 'checkbox', tabindex: -1, 'aria-label': `choose ${row.id}`, onclick: (/** @type {MouseEvent} */ event) => choose(row.row, event) })
  box.checked = chosen
  return h('li', { class: `card${chosen ? ' chosen' : ''}`, 'data-row': row.row },
    h('a', { href: to('image', [row.row], { stage, ...list }), tabindex: -1 },
      h('span', { class: 'picture' }, row.status === 'ok' || !row.error ? picture(row, stage, overlay, depth)
        : h('span', { class: 'why' }, h('strong', {}, row.error.type || 'failed'), ' ', name(row.error.text, 160))),
      h('span', { class: 'id' }, name(row.id, 34)),
      values.length ? h('span', { class: 'values' }, values.map((each) => h('span', {}, h('span', { class: 'muted' }, `${each} `), value(row.values[each])))) : null,
      h('span', { class: 'flagged' }, row.flag ? flagBadge(row.flag) : null)),
    box)
}

/** @param {any} of */
function value(of) {
  return typeof of === 'number' ? shown(of) : name(String(of), 24)
}

/** @param {Row} row @param {string} stage @param {string} overlay @param {number} depth */
function picture(row, stage, overlay, depth) {
  const source = url(`images/${row.row}.jpg`, { side: SIDE, stage, overlay, depth: overlay === 'tree' ? depth : null, v: row.v })
  return pictured(source, overlay === 'none' ? 'photograph' : overlay === 'styled' ? 'restyled' : `photograph with ${overlay}`)
}

/** A picture, or the server's words why there is none. @param {string} source @param {string} alt */
export function pictured(source, alt) {
  const image = h('img', { alt, loading: 'lazy', decoding: 'async', fetchpriority: 'low', draggable: 'false', onerror: () => tellWhy(image, source) })
  image.src = source
  return image
}

/** Put the server's words in place of a picture that cannot be drawn. @param {HTMLImageElement} image @param {string} source */
async function tellWhy(image, source) {
  let why = 'simsam view does not answer.'
  try {
    const answer = await fetch(source, { credentials: 'same-origin' })
    // it may have been busy only
    if (answer.ok) { image.src = URL.createObjectURL(await answer.blob()); return }
    why = (await answer.json()).error
  } catch { /* no answer, or none with words */ }
  image.replaceWith(h('span', { class: 'why' }, why))
}
