// What was found in one image: arrays of the server, asked for once, and what is drawn from them, made once.

import { quantile } from './affinity.js'
import { askArray } from './asking.js'
import { fill, h } from './dom.js'
import { cellsOf, diverging } from './layers.js'
import { offered } from './offers.js'
import { failed, loading } from './states.js'

/** @typedef {import('./layers.js').Cells} Cells */
/** @typedef {import('./offers.js').Offer} Offer */
/** @typedef {{cells: Cells, values: number[], vectors: any, count: number, outside: Cells | null}} Eigenvectors */

const LAYERS = /** @type {Record<string, string>} */ ({ tree: 'nodes', eigenvector: 'eigenvectors', affinity: 'eigenvectors' })
/** A few extreme patches must not wash out the rest. */
const LIMIT_SHARE = 0.98

export class Found {
  /**
   * @param {object} given
   * @param {any} given.about of the row in the stage that it was opened from
   * @param {any[]} given.stages see `ImagePane`
   * @param {import('./offers.js').Live} given.live
   * @param {string} given.run
   * @param {AbortSignal} given.signal
   * @param {() => void} given.ready something asked for has come
   */
  constructor({ about, stages, live, run, signal, ready }) {
    this.stages = stages
    this.row = about.row
    this.run = run
    this.signal = signal
    /** Which drawing of the truth, where people have made several. */
    this.drawing = 0
    this.ready = ready
    this.size = /** @type {[number, number]} */ (about.size)
    this.offers = offered(stages, live)
    /** What is on its way, and what did not come. */
    this.state = h('div', { class: 'pane-state' })
    /** @type {Map<string, any>} */
    this.held = new Map()
    /** @type {Map<string, any>} */
    this.drawn = new Map()
  }

  /** The offer of a key, if it is there. @param {string} key */
  offer(key) {
    return this.offers.find((each) => each.key === key && each.there)
  }

  /** The name of what lies over the whole picture, of several stages the same. @param {string} key */
  nameOf(key) {
    return this.offers.find((each) => each.key === key)?.name ?? ''
  }

  /** What a stage says of the image. @param {string} name */
  stage(name) {
    return this.stages.find((each) => each.stage === name)
  }

  /** An array of a layer; null while it is on its way. @param {Offer | undefined} offer @returns {Cells | null} */
  cells(offer) {
    if (!offer) return null
    const path = `layers/${encodeURIComponent(offer.stage)}/${this.row}/${LAYERS[offer.name] ?? offer.name}`
    const of = offer.name === 'truth' && this.drawing ? this.drawing : ''
    return this.get(`${path} ${of}`, offer.title, async () => cellsOf(await askArray(path, { run: this.run, of }, this.signal)))
  }

  /** @template T @param {string} key @param {string} what @param {() => Promise<T>} ask @returns {T | null} */
  get(key, what, ask) {
    const held = this.held.get(key)
    if (held) return held.value ?? null
    const mine = { value: /** @type {T | null} */ (null) }
    this.held.set(key, mine)
    const state = h('div', {}, loading(what.toLowerCase()))
    this.state.append(state)
    ask().then((value) => { mine.value = value; state.remove(); this.ready() }, (error) => {
      if (error.name === 'AbortError') return
      fill(state, failed(what, error, () => { state.remove(); this.held.delete(key); this.ready() }))
    })
    return null
  }

  /** @template T @param {string} key @param {() => T} make @returns {T} */
  once(key, make) {
    if (!this.drawn.has(key)) this.drawn.set(key, make())
    return this.drawn.get(key)
  }

  /** The eigenvectors with their values, of the stage that has them; null while they are on their way. @returns {Eigenvectors | null} */
  eigen() {
    const offer = this.offer('eigenvector')
    const cells = this.cells(offer)
    if (!offer || !cells) return null
    const outside = this.offers.find((each) => each.name === 'outside' && each.stage === offer.stage && each.there)
    return { cells, values: this.stage(offer.stage).columns.eigenvalues, vectors: cells.values, count: cells.height * cells.width, outside: this.cells(outside) }
  }

  /** The end of the scale of an eigenvector. @param {Eigenvectors} eigen @param {number} k */
  limit({ count, vectors }, k) {
    return this.once(`limit ${k}`, () => Math.max(quantile(vectors.subarray(k * count, (k + 1) * count).map(Math.abs), LIMIT_SHARE), 1e-12))
  }

  /** An eigenvector as a picture of patches. @param {Eigenvectors} eigen @param {number} k @param {HTMLCanvasElement} [canvas] to be used again */
  vector(eigen, k, canvas) {
    return diverging(eigen.vectors, k * eigen.count, this.limit(eigen, k), eigen.cells.width, eigen.cells.height, canvas)
  }
}
