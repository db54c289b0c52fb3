// An image before and after it was restyled by words, with an edge that is moved, and what became of its regions.

import { askArray } from './asking.js'
import { fill, h, name, printed, say, shown, wide } from './dom.js'
import { cellAt, cellsOf, css, edges, OBJECTS } from './layers.js'
import { Photograph } from './photograph.js'
import { failed, loading, none } from './states.js'
import { Swipe } from './swipe.js'

/** @typedef {Record<string, any>} Style what became of a region */
/** @typedef {{name: string, text: string, changed: boolean, styles: Style[]}} Picture */

const MASKS = /** @type {const} */ ([['mask', 'Mask', 'm'], ['labels', 'Labels', 'l']])
const COMMANDS = { mask: 'simsam segment IMAGES OUT', labels: 'simsam semantic IMAGES OUT' }
const SHORT = 32

/** Of a region, in words: what each line tells, and how it is told. @type {[string[], string, (style: Style) => string | null][]} */
const FIGURES = [
  [['fit'], 'network', ({ fit }) => (fit === 'run' ? 'one for the whole run' : fit === 'image' ? 'one for this image' : fit ?? null)],
  [['patch_first', 'patch_last'], 'loss of the crops, first to last', (style) => between(style.patch_first, style.patch_last)],
  [['loss_first', 'loss_last'], 'loss as a whole, first to last', (style) => between(style.loss_first, style.loss_last)],
  [['rejected_last'], 'crops that had enough at the end', ({ rejected_last: share }) => (known(share) ? `${shown(100 * share, 0)} %` : null)],
  [['clip_direction'], 'direction: 1 is straight from the source text to the words', (style) => of(style.clip_direction)],
  [['clip_direction_other'], 'direction to the words of another region, at most', (style) => of(style.clip_direction_other)],
  [['clip_text_before', 'clip_text'], 'likeness to the words, before to after', (style) => between(style.clip_text_before, style.clip_text)],
  [['content_inside'], 'content moved inside', (style) => of(style.content_inside)],
  [['content_outside'], 'content moved outside', (style) => of(style.content_outside)],
  [['scored_by'], 'scored by', ({ scored_by: by }) => by ?? null],
]
const TOLD = new Set(['region', 'text', 'status', 'skip_reason', 'steps', 'stopped', 'picture', ...FIGURES.flatMap(([names]) => names)])

export class RestyledPane {
  /**
   * @param {object} given
   * @param {any} given.about of the row in the stage that restyled it, with `pictures` and `size`
   * @param {any[]} given.stages what `api/images` says of it in every stage of images, each with `stage`
   * @param {Record<string, string>} given.query of the address
   * @param {string} given.run
   * @param {AbortSignal} given.signal
   * @param {() => void} given.changed the looks have changed
   */
  constructor({ about, stages, query, run, signal, changed }) {
    this.about = about
    this.run = run
    this.signal = signal
    this.changed = changed
    /** @type {Picture[]} */
    this.pictures = about.pictures
    const which = Number(query.picture || 1) - 1
    this.which = this.pictures[which] ? which : 0
    /** The mask or the labels of other stages, by what is drawn. @type {Record<string, {stage: string, cells: import('./layers.js').Cells | null, state: HTMLElement}>} */
    this.masks = {}
    for (const [layer] of MASKS) {
      const found = stages.find((each) => each.layers.some((/** @type {any} */ of) => of.name === layer && of.there))
      if (found) this.masks[layer] = { stage: found.stage, cells: null, state: h('div', {}) }
    }
    this.drawn = this.masks[query.layer] ? query.layer : ''
    /** @type {[number, number] | null} */
    this.pointer = null
    this.swipe = new Swipe({ names: ['Before', 'After'], labels: [`${about.id} before`, `${about.id} after`], over: query.swipe !== '0', changed,
      point: (x, y) => { this.pointer = [x, y]; this.#read() }, leave: () => { this.pointer = null; this.#read() }, moved: () => this.photographs?.forEach((each) => each.sharper()) })
    for (const view of this.swipe.views) view.sized(about.size[0], about.size[1])
    this.photographs = [new Photograph(this.swipe.views[0], about, run, signal)]
    this.last = new AbortController()
    this.twin = h('p', { class: 'twin' })
    this.after = h('div', {})
    this.words = h('section', { class: 'restyled-words', 'aria-label': 'What became of the regions' })
    this.buttons = this.pictures.map((each, i) => h('button', { type: 'button', onclick: () => this.choose(i) }, name(each.text || each.styles.map((style) => style.text).join(', '), SHORT), whose(each, this.pictures)))
    this.layers = MASKS.map(([layer, title, key]) => h('button', { type: 'button', disabled: !this.masks[layer], onclick: () => this.draw(layer),
      title: this.masks[layer] ? `of ${this.masks[layer].stage}` : `this run has none: ${COMMANDS[layer]}` }, title, ' ', h('kbd', {}, key)))
    this.picture = h('div', { class: 'pane' },
      h('div', { class: 'zooming', role: 'group', 'aria-label': 'Zoom and swipe' }, this.swipe.button, this.swipe.zooming), this.swipe.line, this.swipe.figures, this.twin, this.photographs[0].state, this.after,
      Object.values(this.masks).map((each) => each.state))
    this.side1 = h('div', { class: 'pane-side' },
      this.pictures.length > 1 ? h('div', { class: 'choices', role: 'group', 'aria-label': 'Which picture' }, this.buttons) : null,
      h('div', { class: 'choices', role: 'group', 'aria-label': 'Around regions' }, this.layers), this.words)
  }

  start() {
    this.photographs[0].sharper(0)
    this.#show()
    for (const layer of Object.keys(this.masks)) this.#mask(layer)
    this.#lines()
  }

  /** What the address holds of how it is looked at. @param {boolean} _whole */
  written(_whole) {
    return { layer: this.drawn, picture: this.which ? this.which + 1 : '', swipe: this.swipe.over ? '' : 0 }
  }

  /** @returns {import('./keys.js').Keys} */
  keys() {
    return {
      ...this.swipe.keys(),
      m: { does: 'mask', run: () => this.draw('mask') },
      l: { does: 'labels', run: () => this.draw('labels') },
      ...(this.pictures.length > 1 ? { '[': { does: 'picture before', run: () => this.choose(this.which - 1) }, ']': { does: 'next picture', run: () => this.choose(this.which + 1) } } : {}),
    }
  }

  /** Show one of several pictures. @param {number} which */
  choose(which) {
    if (!this.pictures[which] || which === this.which) return
    this.which = which
    this.changed()
    this.#show()
    say(summary(this.pictures[which]))
  }

  /** Draw around regions, or no longer. @param {string} layer */
  draw(layer) {
    if (!this.masks[layer]) { say(`This run has no ${layer}`); return }
    this.drawn = this.drawn === layer ? '' : layer
    this.changed()
    this.#lines()
    say(this.drawn ? `${layer} shown` : `${layer} hidden`)
  }

  /** The picture that is chosen, and its words. */
  #show() {
    // the one before may still be on its way
    this.last.abort()
    this.last = new AbortController()
    const view = this.swipe.views[1], { about, which } = this
    view.photo = view.detail = null
    view.draw()
    const photograph = new Photograph(view, about, this.run, AbortSignal.any([this.signal, this.last.signal]),
      { what: 'the restyled picture', query: { overlay: 'styled', of: which || '', v: about.v } })
    this.photographs[1] = photograph
    fill(this.after, photograph.state)
    photograph.sharper(0)
    this.buttons.forEach((each, i) => each.setAttribute('aria-pressed', String(i === which)))
    fill(this.words, this.#told(this.pictures[which]))
    this.#read()
  }

  /** @param {string} layer */
  async #mask(layer) {
    const mask = this.masks[layer]
    fill(mask.state, loading(`the ${layer}`))
    try {
      mask.cells = cellsOf(await askArray(`layers/${encodeURIComponent(mask.stage)}/${this.about.row}/${layer}`, { run: this.run }, this.signal))
      fill(mask.state)
      this.#lines()
      this.#read()
    } catch (error) {
      if (/** @type {Error} */ (error).name !== 'AbortError') fill(mask.state, failed(`The ${layer}`, error, () => this.#mask(layer)))
    }
  }

  #lines() {
    MASKS.forEach(([layer], i) => this.layers[i].setAttribute('aria-pressed', String(layer === this.drawn)))
    const cells = this.masks[this.drawn]?.cells
    const kind = (/** @type {import('./layers.js').Cells} */ { values, ignore }) => (/** @type {number} */ i) => (this.drawn === 'mask' ? Number(values[i] === 1) : values[i] === ignore ? 0 : values[i] + 1)
    for (const view of this.swipe.views) {
      view.layers = cells ? [{ grid: [cells.height, cells.width], cover: cells.cover, color: css(OBJECTS[0]), lines: edges(cells.width, cells.height, kind(cells)) }] : []
      view.draw()
    }
  }

  /** The text twin of the pictures: what is under the pointer, else what was done. */
  #read() {
    const { pointer, about: { size }, pictures, which } = this
    if (!pointer) { fill(this.twin, summary(pictures[which])); return }
    const [x, y] = pointer
    const regions = pictures[which].styles.filter((style) => this.#holds(style.region, x, y))
    fill(this.twin, [`x ${Math.floor(x * size[0])}, y ${Math.floor(y * size[1])}`, ...(regions.length ? regions.map(said) : ['in no region that has words'])].join(' · '))
  }

  /** Whether a region is under a point; not known before its mask has come. @param {string} region @param {number} x @param {number} y */
  #holds(region, x, y) {
    const cells = this.masks[region.startsWith('label ') ? 'labels' : 'mask']?.cells
    if (!cells) return false
    const value = cells.values[cellAt(cells, x, y)]
    return region === 'object' ? value === 1 : region === 'background' ? value !== 1 : value === Number(region.slice('label '.length))
  }

  /** @param {Picture} picture */
  #told({ text, changed, styles }) {
    const { leak_max: most, leak_share: share } = this.about.columns
    const more = [...new Set(styles.flatMap((style) => Object.keys(style)))].filter((each) => !TOLD.has(each))
    const line = (/** @type {string} */ title, /** @type {(import('./dom.js').Child)[]} */ cells) => h('tr', {}, h('th', { scope: 'row' }, title), cells.map((each) => h('td', {}, each ?? '–')))
    const figures = FIGURES.map(([, title, tell]) => /** @type {[string, (string | null)[]]} */ ([title, styles.map(tell)]))
    const others = more.map((each) => /** @type {[string, (string | null)[]]} */ ([each.replaceAll('_', ' '), styles.map((style) => plain(style[each]))]))
    return [
      h('h2', {}, changed ? name(text, 120) : 'Nothing was restyled'),
      changed ? null : none('Every region was left as it is, so that before and after are the same.'),
      wide('Regions', h('table', {}, h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'region'), styles.map((style) => h('th', { scope: 'col' }, style.region)))), h('tbody', {},
        line('words', styles.map((style) => name(String(style.text), 120))),
        line('what became of it', styles.map(became)),
        [...figures, ...others].filter(([, cells]) => cells.some((each) => each !== null)).map(([title, cells]) => line(title, cells))))),
      !changed ? null : h('p', { class: 'note' }, !known(share) ? 'All of the image was restyled.' : most === 0 ? 'Where nothing was restyled, no pixel differs from the image.' : `Where nothing was restyled, ${shown(100 * share, 1)} % of the pixels differ, by ${most} of 255 at most.`),
    ]
  }
}

/** @param {Style} style */
function became({ status, skip_reason: why, steps, stopped }) {
  if (status !== 'styled') return `left as it is: ${why ?? status}`
  return `restyled${known(steps) ? ` in ${shown(steps)} updates` : ''}${stopped ? ', and ended early, for its crops got no better' : ''}`
}

/** @param {Style} style */
function said(style) {
  return `in the ${style.region}: ${style.status === 'styled' ? style.text : `left as it is, ${style.skip_reason}`}`
}

/** Which network made a picture, where others have the same words. @param {Picture} picture @param {Picture[]} all */
function whose(picture, all) {
  const fit = (/** @type {Picture} */ of) => of.styles.find((style) => style.fit)?.fit
  const twin = all.some((each) => each !== picture && each.text === picture.text && fit(each) !== fit(picture))
  return twin ? `, by ${fit(picture) === 'run' ? 'the network of the run' : 'one of its own'}` : ''
}

/** @param {Picture} picture */
function summary({ styles }) {
  return `After: ${styles.map((style) => `${style.region}: ${style.status === 'styled' ? style.text : `left as it is, ${style.skip_reason}`}`).join(' · ')}`
}

/** @param {any} value @returns {value is number} */
function known(value) {
  return value !== null && value !== undefined && !Number.isNaN(value)
}

/** @param {any} value */
function of(value) {
  return known(value) ? shown(value) : null
}

/** @param {any} first @param {any} last */
function between(first, last) {
  return known(first) && known(last) ? `${shown(first)} to ${shown(last)}` : null
}

/** @param {any} value */
function plain(value) {
  return !known(value) ? null : typeof value === 'number' ? printed(shown(value)) : String(value)
}
