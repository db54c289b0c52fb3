// Cosine of one patch to all others, which the server computes while one waits.

import { askLiveArray } from './asking.js'
import { fill, h } from './dom.js'
import { cellsOf } from './layers.js'
import { Latest } from './latest.js'
import { failed, loading } from './states.js'

/** @typedef {import('./layers.js').Cells} Cells */
/** @typedef {{patch: number, cells: Cells}} Row of a patch its cosine to each */

export class Cosines {
  /**
   * @param {object} given
   * @param {any} given.about of the image @param {string} given.stage whose features are asked @param {string} given.run
   * @param {AbortSignal} given.signal
   * @param {() => void} given.ready a row has come
   */
  constructor({ about, stage, run, signal, ready }) {
    const [height, width] = about.grid ?? [1, 1]
    /** @type {Cells} */
    this.grid = { values: [], height, width, cover: [1, 1], ignore: null }
    /** What is on its way, and what did not come. */
    this.state = h('div', { class: 'pane-state' })
    /** @type {Latest<Cells>} */
    this.rows = new Latest(async (key) => {
      if (!this.rows.last) fill(this.state, loading('the cosines'))
      return cellsOf(await askLiveArray('api/live/affinity', { row: about.row, patch: Number(key), stage, run }, signal, (busy) => fill(this.state, h('p', { class: 'state', 'aria-busy': 'true' }, busy))))
    }, () => {
      const { fault } = this.rows
      fill(this.state, fault ? failed('the cosine', fault.error, () => this.rows.again()) : null)
      ready()
    })
  }

  /** The patches; until the first answer without the rest of the image that none covers. @returns {Cells} */
  get cells() {
    return this.rows.last?.value ?? this.grid
  }

  /** The row of a patch, or until it comes the one before; null without any. @param {number} patch @returns {Row | null} */
  of(patch) {
    this.rows.get(String(patch))
    const { last } = this.rows
    return last && { patch: Number(last.key), cells: last.value }
  }
}
