// All eigenvectors of an image beside each other, with eigenvalues and gaps.

import { command, fill, h, shown } from './dom.js'

export class Strip {
  /** @param {import('./found.js').Found} found @param {(k: number) => void} chosen */
  constructor(found, chosen) {
    this.found = found
    this.chosen = chosen
    this.element = h('div', { class: 'strip', role: 'group', 'aria-label': 'Eigenvectors' })
  }

  /** Show them as soon as they are there, and which one lies over the picture. @param {number | null} k */
  update(k) {
    if (!this.element.childElementCount) this.#make()
    for (const each of this.element.querySelectorAll('button')) each.setAttribute('aria-pressed', String(Number(each.getAttribute('data-k')) === k))
  }

  #make() {
    const missing = this.found.offers.find((each) => each.name === 'eigenvector' && !each.there)
    if (missing) { this.element.replaceWith(this.element = h('div', { class: 'strip-note' }, h('p', { class: 'note' }, `No eigenvectors: ${missing.why}.`, missing.command ? [' To have them: ', command(missing.command)] : null))); return }
    const eigen = this.found.eigen()
    if (!eigen) return
    const { cells, values } = eigen
    fill(this.element, values.map((value, k) => {
      const canvas = this.found.vector(eigen, k)
      canvas.setAttribute('aria-hidden', 'true')
      canvas.style.setProperty('aspect-ratio', `${cells.width} / ${cells.height}`)
      const gap = k + 1 < values.length ? values[k + 1] - value : null
      return h('button', { type: 'button', 'data-k': k, onclick: () => this.chosen(k),
        title: gap === null ? null : `gap to the next: ${shown(gap)}`, 'aria-label': `eigenvector ${k}, eigenvalue ${shown(value)}${gap === null ? '' : `, gap ${shown(gap)}`}` },
      canvas, h('span', {}, h('strong', {}, k), ` ${shown(value)}`), h('span', { class: 'muted' }, gap === null ? ' ' : `gap ${shown(gap)}`))
    }))
  }
}
