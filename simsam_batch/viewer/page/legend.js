// What the colours over the picture mean: a scale with its ends, or a list.

import { fill, h } from './dom.js'
import { scaleBar } from './layers.js'

/** @typedef {{scale: 'rising' | 'diverging', title: string, marks: string[]}} Scale */
/** @typedef {{key: string, title?: string, entries: [string, string][]}} List colours of CSS, '' for none, with their words */

export class Legend {
  constructor() {
    this.element = h('div', { class: 'legend' })
    this.of = ''
  }

  /** @param {Scale | List | null} what */
  show(what) {
    if (what && 'scale' in what) { this.#scale(what); return }
    if (this.of === (what?.key ?? '')) return
    this.of = what?.key ?? ''
    fill(this.element, what?.title ? h('p', {}, what.title) : null, what ? h('ul', {}, what.entries.map(([color, text]) =>
      h('li', {}, color ? h('span', { class: 'swatch', 'aria-hidden': 'true', style: { background: color } }) : null, h('bdi', {}, text)))) : null)
  }

  /** @param {Scale} scale */
  #scale({ scale, title, marks }) {
    if (this.of !== scale) {
      this.of = scale
      const bar = scaleBar(scale)
      bar.className = 'bar'
      bar.setAttribute('aria-hidden', 'true')
      fill(this.element, h('p', {}), bar, h('p', { class: 'marks' }, marks.map(() => h('span', {}))))
    }
    const [head, , foot] = this.element.children
    head.textContent = title
    marks.forEach((mark, i) => { foot.children[i].textContent = mark })
  }
}
