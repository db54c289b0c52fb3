// What the picture shows and how, by buttons and sliders.

import { command, fill, h } from './dom.js'
import { LINES } from './offers.js'

/** @typedef {import('./found.js').Found} Found */
/** @typedef {import('./offers.js').Offer} Offer */
/** @typedef {import('./pane.js').Looks} Looks */

export const STEPS = [1, 2, 4, 8]
const KEYS = /** @type {Record<string, string>} */ ({ mask: 'm', truth: 't', box: 'b', labels: 'l', affinity: 'a', cosine: 'c' })

/** Zoom by buttons. @param {import('./canvas.js').LayerView} view @param {[number, number]} size of the image */
export function zooming(view, size) {
  const button = (/** @type {string} */ text, /** @type {string} */ label, /** @type {() => void} */ does) => h('button', { type: 'button', 'aria-label': label, title: label, onclick: does }, text)
  return h('div', { class: 'zooming', role: 'group', 'aria-label': 'Zoom' }, button('+', 'Zoom in', () => view.zoom(1.5)), button('−', 'Zoom out', () => view.zoom(1 / 1.5)),
    button('All', 'Whole image', () => view.fit()), button('1:1', 'A pixel of the image for a pixel of the screen', () => view.zoom(size[0] / Math.max(1, view.across))),
    h('span', { class: 'note' }, 'wheel zooms, dragging moves'))
}

export class LayerControls {
  /**
   * @param {Found} found @param {Looks} looks changed in place
   * @param {object} on
   * @param {(key: string) => void} on.area chosen, '' for none @param {(key: string) => void} on.line chosen
   * @param {() => void} on.changed another way of looking
   */
  constructor(found, looks, on) {
    this.found = found
    this.looks = looks
    this.on = on
    this.element = h('div', { class: 'layer-controls' })
    this.drawings = h('p', { class: 'slider', 'data-for': 'truth' })
    const { offers } = found
    const areas = offers.filter((each) => !LINES.includes(each.name)), lines = offers.filter((each) => LINES.includes(each.name))
    const missing = [...areas, ...lines].filter((each) => !each.there)
    fill(this.element,
      h('div', { class: 'choices', role: 'group', 'aria-label': 'Over the whole picture' },
        h('button', { type: 'button', 'data-key': '', onclick: () => on.area('') }, 'Photograph'),
        areas.map((offer) => this.#choice(offer, () => on.area(offer.key)))),
      h('div', { class: 'choices', role: 'group', 'aria-label': 'Around parts' }, lines.map((offer) => this.#choice(offer, () => on.line(offer.key)))),
      h('div', { class: 'ways' }, this.#ways()),
      missing.length ? h('details', { class: 'missing' }, h('summary', {}, `Why ${missing.length} of these are not there`),
        h('ul', {}, missing.map((offer) => h('li', {}, h('strong', {}, offer.title), `: ${offer.why}`, offer.command ? ['. To have it: ', command(offer.command)] : null)))) : null)
  }

  /** Show what is chosen. */
  update() {
    const { looks, found } = this
    for (const each of this.element.querySelectorAll('[data-key]')) {
      const key = /** @type {string} */ (each.getAttribute('data-key'))
      each.setAttribute('aria-pressed', String((key === looks.area || looks.lines.has(key)) && (!key || found.offer(key) !== undefined)))
    }
    this.#drawings()
    const area = found.nameOf(looks.area)
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (this.element.querySelectorAll('[data-for]')))
      each.hidden = !(each.dataset.for ?? '').split(' ').some((key) => key === area || (looks.lines.has(key) && found.offer(key)) || (key === 'area' && looks.area))
  }

  /** @param {Offer} offer @param {() => void} does */
  #choice(offer, does) {
    return h('button', { type: 'button', 'data-key': offer.key, disabled: !offer.there, title: offer.why ?? `of ${offer.stage}`, 'aria-pressed': 'false', onclick: does },
      offer.there && offer.key !== offer.name ? `${offer.title} (${offer.stage})` : offer.title, offer.there && KEYS[offer.key] ? [' ', h('kbd', {}, KEYS[offer.key])] : null)
  }

  #ways() {
    const { looks } = this
    const most = this.found.stages.map((each) => each.columns.eigenvalues?.length ?? 0).reduce((a, b) => Math.max(a, b), 0)
    const line = (/** @type {string} */ of, /** @type {HTMLElement[]} */ held) => h('p', { class: 'slider', 'data-for': of }, held)
    return [
      line('area', this.#slider('opacity', 'Opacity', { min: 0, max: 100, value: Math.round(100 * looks.opacity) }, (value) => { looks.opacity = value / 100; return `${value} %` })),
      line('eigenvector affinity cosine', this.#options('smooth', 'Between patches', [['', 'nearest'], ['1', 'smooth']], looks.smooth ? '1' : '', (value) => { looks.smooth = value === '1' })),
      line('affinity', this.#options('steps', 'Steps t', STEPS.map((each) => [String(each), String(each)]), String(looks.t), (value) => { looks.t = Number(value) })),
      most ? line('affinity', this.#slider('vectors', 'Eigenvectors K', { min: 1, max: most, value: looks.vectors || most }, (value) => { looks.vectors = value === most ? 0 : value; return `${value} of ${most}` })) : null,
      line('mask', this.#options('style', 'Mask as', [['outline', 'outline'], ['fill', 'fill'], ['cut', 'cut out']], looks.style, (value) => { looks.style = value })),
      line('truth', this.#options('truth-style', 'Truth as', [['outline', 'outline'], ['fill', 'fill']], looks.truth, (value) => { looks.truth = value })),
      this.drawings,
    ]
  }

  /** Which of several drawings of the truth, as soon as it is known how many there are. */
  #drawings() {
    if (this.drawings.childElementCount) return
    const shown = this.found.offers.find((each) => each.name === 'truth' && each.there && this.looks.lines.has(each.key))
    const count = this.found.cells(shown)?.drawings ?? 1
    if (count < 2) return
    const values = Array.from({ length: count }, (_, i) => /** @type {[string, string]} */ ([String(i), `${i + 1} of ${count}`]))
    fill(this.drawings, this.#options('drawing', 'Drawing', values, String(this.looks.drawing ?? 0), (value) => { this.looks.drawing = Number(value) }))
  }

  /** @param {string} id @param {string} label @param {Record<string, any>} range @param {(value: number) => string} set says what was set */
  #slider(id, label, range, set) {
    const words = h('output', { for: id })
    const input = h('input', { type: 'range', id, ...range, oninput: () => { words.textContent = set(Number(input.value)); this.on.changed() } })
    words.textContent = set(Number(input.value))
    return [h('label', { for: id }, label), input, words]
  }

  /** @param {string} id @param {string} label @param {[string, string][]} values @param {string} now @param {(value: string) => void} set */
  #options(id, label, values, now, set) {
    const select = h('select', { id, onchange: () => { set(select.value); this.on.changed() } }, values.map(([value, text]) => h('option', { value, selected: value === now }, text)))
    return [h('label', { for: id }, label), select]
  }
}
