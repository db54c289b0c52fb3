// Where a patch of this image is in another one: the other image with how like the patch each of its places is.

import { to } from './address.js'
import { ask, askLive } from './asking.js'
import { LayerView } from './canvas.js'
import { fill, h, name, say, shown } from './dom.js'
import { Latest } from './latest.js'
import { rising } from './layers.js'
import { Photograph } from './photograph.js'
import { failed, loading, none } from './states.js'

/** @typedef {{patch: number, x: number, y: number}} Source in pixels of this image */

export class Finding {
  /**
   * @param {object} given
   * @param {any} given.about of this image @param {string} given.stage whose features are asked @param {string} given.run
   * @param {import('./pane.js').Looks} given.looks changed in place
   * @param {AbortSignal} given.signal
   * @param {(row: number) => Promise<{previous: number | null, next: number | null}>} given.near what stands beside a row in the list
   * @param {() => void} given.changed another image was chosen, or something has come: `follow` is to be called
   */
  constructor({ about, stage, run, looks, signal, near, changed }) {
    this.about = about
    this.run = run
    this.looks = looks
    this.signal = signal
    this.near = near
    this.changed = changed
    /** @type {{row: number, size: [number, number], view: LayerView} | null} */
    this.other = null
    /** What was asked for by a key or a button is said. */
    this.saying = false
    this.canvas = document.createElement('canvas')
    this.words = h('p', { class: 'twin' })
    this.state = h('div', { class: 'pane-state' })
    this.place = h('div', {})
    const input = h('input', { id: 'other', autocomplete: 'off', spellcheck: 'false', required: true })
    this.element = h('section', { class: 'finding', 'aria-labelledby': 'finding' }, h('h2', { id: 'finding' }, 'Find the patch in another image'),
      h('form', { class: 'choices', onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); this.find(input.value.trim()) } },
        h('button', { type: 'button', onclick: () => this.step('previous') }, 'Previous ', h('kbd', {}, 'O')), h('button', { type: 'button', onclick: () => this.step('next') }, 'Next ', h('kbd', {}, 'o')),
        h('label', { for: 'other' }, 'Row or id '), input, h('button', { type: 'submit' }, 'Find')),
      this.words, this.place, this.state)
    /** @type {Latest<any>} */
    this.matches = new Latest((key) => {
      const [other, , x, y] = key.split(' ').map(Number)
      if (!this.matches.last) fill(this.state, loading('the match'))
      return askLive('api/live/match', { row: about.row, other, x, y, stage, run }, signal, (busy) => fill(this.state, h('p', { class: 'state', 'aria-busy': 'true' }, busy)))
    }, () => {
      const { fault } = this.matches
      fill(this.state, fault ? failed('the match', fault.error, () => this.matches.again()) : null)
      changed()
    })
  }

  start() {
    if (this.looks.other !== null) this.#open(this.looks.other)
  }

  /** On to what stands beside the other image in the list, at first beside this one. @param {'previous' | 'next'} which */
  async step(which) {
    await this.#tried(async () => {
      /** @type {number | null} */
      let row = (await this.near(this.looks.other ?? this.about.row))[which]
      // this image itself is passed over
      if (row !== null && row === this.about.row) row = (await this.near(row))[which]
      if (row === null) {
        const told = `There is no ${which} image in the list.`
        fill(this.state, h('p', { class: 'note' }, told))
        say(told)
      } else this.choose(row)
    })
  }

  /** @param {string} text a row or an id */
  async find(text) {
    const find = async () => (await ask('api/find', { stage: this.about.stage, run: this.run, id: text }, this.signal)).row
    await this.#tried(async () => this.choose(/^\d{1,15}$/.test(text) ? Number(text) : await find()))
  }

  /** @param {number} row */
  choose(row) {
    this.looks.other = row
    this.saying = true
    this.#open(row)
    this.changed()
  }

  /** @param {() => Promise<void>} does */
  async #tried(does) {
    try { await does() } catch (error) {
      if (/** @type {Error} */ (error).name !== 'AbortError') fill(this.state, failed('the other image', error))
    }
  }

  /** @param {number} row */
  async #open(row) {
    this.other = null
    fill(this.words)
    fill(this.state)
    fill(this.place, loading('the other image'))
    let found
    try { found = await ask(`api/images/${row}`, { stage: this.about.stage, run: this.run }, this.signal) } catch (error) {
      if (/** @type {Error} */ (error).name !== 'AbortError' && row === this.looks.other) fill(this.place, failed('the other image', error, () => this.#open(row)))
      return
    }
    if (row !== this.looks.other || this.signal.aborted) return
    const link = h('p', {}, h('a', { href: to('image', [row], { stage: this.about.stage, run: this.run === 'b' ? 'b' : '' }) }, name(found.id, 60)))
    if (!found.size) { fill(this.place, link, none('The image could not be read, so that nothing is found in it.')); return }
    const view = new LayerView(`${found.id}, with how like the patch its places are`, { moved: () => photograph.sharper() })
    const photograph = new Photograph(view, { ...found, stage: this.about.stage }, this.run, this.signal)
    // it is told in words, and nothing in it is moved by keys
    for (const attribute of ['tabindex', 'aria-roledescription']) view.canvas.removeAttribute(attribute)
    view.canvas.setAttribute('role', 'img')
    view.sized(found.size[0], found.size[1])
    this.other = { row, size: found.size, view }
    fill(this.place, link, view.element, photograph.state)
    photograph.sharper(0)
    if (this.saying) this.element.scrollIntoView({ block: 'nearest' })
    this.changed()
  }

  /** Show where a patch is in the other image, if there is one. @param {Source | null} source */
  follow(source) {
    const { other } = this
    if (!other || !source) return
    this.matches.get(`${other.row} ${source.patch} ${source.x} ${source.y}`)
    const { last, fault } = this.matches
    const [row, patch] = (last?.key ?? '').split(' ').map(Number)
    if (!last || row !== other.row || fault) { other.view.layers = []; other.view.cross = null; fill(this.words); other.view.draw(); return }
    const found = last.value
    const [down, across] = found.grid, [width, height] = other.size
    const most = Math.max(...found.map, 1e-6)
    const cells = rising(found.map.map((/** @type {number} */ each) => Math.max(0, each)), most, across, down, this.canvas)
    other.view.layers = [{ cells, grid: found.grid, cover: found.cover, alpha: this.looks.opacity, smooth: this.looks.smooth }]
    other.view.cross = [(found.x + 0.5) / width, (found.y + 0.5) / height]
    other.view.draw()
    const told = `Patch ${patch} is found at x ${shown(found.x, 0)}, y ${shown(found.y, 0)}: similarity ${shown(found.similarity)}, ${found.mutual ? 'mutual' : 'not mutual: the place found is more like another patch of this image'}.`
    this.words.dataset.similarity = String(found.similarity)
    fill(this.words, told, h('span', { class: 'muted' }, ` The lighter, the more alike; lightest ${shown(most)}.`))
    if (this.saying && patch === source.patch) { this.saying = false; say(told) }
  }
}
