// The picture of one image: its layers, how they are drawn, and what lies under the pointer.

import { liftRow, quantile } from './affinity.js'
import { ask, askArray, askPicture } from './asking.js'
import { LayerView } from './canvas.js'
import { fill, h, say, shown } from './dom.js'
import { anyColor, cellAt, cellsOf, colored, colorOf, css, diverging, edges, hatching, middleOf, OBJECTS, rising, scaleBar, TRUTH } from './layers.js'
import { failed, loading } from './states.js'
import { nodesAt, pathTo, TreePanel } from './tree.js'

/** @typedef {import('./layers.js').Cells} Cells */
/** @typedef {{key: string, name: string, stage: string, title: string, there: boolean, why: string | null}} Offer */

/**
 * How it is looked at: what the address holds.
 * @typedef {object} Looks
 * @property {string} area what is drawn all over the photograph: the key of an offer, '' for none
 * @property {Set<string>} lines keys of what is drawn around parts of it
 * @property {number} k @property {number} t @property {number} vectors @property {number | null} node @property {number | null} patch
 * @property {number} depth @property {number} opacity @property {boolean} smooth @property {string} style @property {string} truth
 */

const LINES = ['mask', 'truth', 'box', 'outside']
export const STEPS = [1, 2, 4, 8]
const SIDES = [640, 1280, 2048]
const SETTLED_MS = 160

export class ImagePane {
  /**
   * @param {object} given
   * @param {any} given.about of the row in the stage that it was opened from
   * @param {any[]} given.stages what `api/images` says of it in every stage of images, that stage first, each with `stage` and `settings`
   * @param {Looks} given.looks changed in place
   * @param {string} given.run
   * @param {AbortSignal} given.signal
   * @param {() => void} given.changed the looks have changed
   */
  constructor({ about, stages, looks, run, signal, changed }) {
    this.about = about
    this.stages = stages
    this.looks = looks
    this.run = run
    this.signal = signal
    this.changed = changed
    this.offers = offered(stages)
    this.size = /** @type {[number, number]} */ (about.size)
    /** @type {Map<string, any>} */
    this.held = new Map()
    /** @type {Map<string, any>} */
    this.drawn = new Map()
    this.pinned = looks.patch !== null
    /** @type {number | null} */
    this.hovered = null
    /** @type {[number, number] | null} */
    this.pointer = null
    this.frame = 0
    this.side = 0
    /** What the legend is of. @type {string} */
    this.legendOf = ''
    this.canvases = { vector: document.createElement('canvas'), lift: document.createElement('canvas') }
    /** @type {TreePanel | null} */
    this.tree = null
    this.view = new LayerView(`${about.id}, with what was found in it`, {
      point: (x, y) => this.#pointed(x, y), leave: () => this.#left(), pick: (x, y) => this.#picked(x, y), key: (event) => this.#key(event), moved: () => this.#sharper() })
    this.view.sized(this.size[0], this.size[1])
    this.twin = h('p', { class: 'twin' })
    this.state = h('div', { class: 'pane-state' })
    this.ground = h('div', {})
    this.strip = h('div', { class: 'strip', role: 'group', 'aria-label': 'Eigenvectors' })
    this.controls = h('div', { class: 'layer-controls' })
    this.legend = h('div', { class: 'legend' })
    this.treePlace = h('div', { class: 'tree-place' })
    this.picture = h('div', { class: 'pane' }, this.#zooming(), this.view.element, this.twin, this.ground, this.state, this.strip)
    this.side1 = h('div', { class: 'pane-side' }, this.controls, this.legend, this.treePlace)
    this.zoomTimer = 0
    if (looks.area === 'default') looks.area = ''
  }

  start() {
    this.#controls()
    this.#sharper(0)
    this.#fetchStrip()
    if (this.offer('tree')) this.#fetchTree()
    this.update()
  }

  /** The offer of a key, if it is there. @param {string} key */
  offer(key) {
    return this.offers.find((each) => each.key === key && each.there)
  }

  // ---- what is asked of the server

  /** An array of a layer; null while it is on its way. @param {Offer | undefined} offer @returns {Cells | null} */
  #cells(offer) {
    if (!offer) return null
    const name = { tree: 'nodes', eigenvector: 'eigenvectors', affinity: 'eigenvectors' }[offer.name] ?? offer.name
    const path = `layers/${encodeURIComponent(offer.stage)}/${this.about.row}/${name}`
    return this.#get(path, offer.title, async () => cellsOf(await askArray(path, { run: this.run }, this.signal)))
  }

  /** @template T @param {string} key @param {string} what @param {() => Promise<T>} get @returns {T | null} */
  #get(key, what, get) {
    const held = this.held.get(key)
    if (held) return held.value ?? null
    const mine = { value: /** @type {T | null} */ (null) }
    this.held.set(key, mine)
    const state = h('div', {}, loading(what.toLowerCase()))
    this.state.append(state)
    get().then((value) => { mine.value = value; state.remove(); this.update() }, (error) => {
      if (error.name === 'AbortError') return
      fill(state, failed(what, error, () => { state.remove(); this.held.delete(key); this.update() }))
    })
    return null
  }

  async #fetchTree() {
    const offer = /** @type {Offer} */ (this.offer('tree'))
    const tree = /** @type {any} */ (this.#get('tree', 'Tree', () => ask(`api/trees/${this.about.row}`, { stage: offer.stage, run: this.run }, this.signal)))
    if (!tree || this.tree) return
    this.looks.depth = Math.min(this.looks.depth, tree.deepest)
    const clustered = tree.nodes.some((/** @type {any} */ node) => node.label !== null && node.label !== undefined)
    this.tree = new TreePanel(tree, offer.stage, clustered, (node, chosen) => this.#lit(node, chosen))
    const depth = h('input', { type: 'range', id: 'depth', min: 0, max: tree.deepest, value: this.looks.depth, oninput: () => this.depth(Number(depth.value)) })
    this.depthInput = depth
    this.depthText = h('output', { for: 'depth' })
    fill(this.treePlace, h('h2', {}, 'Tree'), h('p', { class: 'slider' }, h('label', { for: 'depth' }, 'Depth'), depth, this.depthText), this.tree.element)
    this.tree.level(this.looks.depth)
    this.#depthWords()
    if (this.looks.node !== null && this.looks.node < tree.nodes.length) this.tree.choose(this.looks.node)
    else { this.looks.node = null; this.tree.tell(null) }
  }

  /** The eigenvectors with their values, of the stage that has them. @returns {{cells: Cells, values: number[], vectors: any, count: number, outside: Cells | null} | null} */
  #eigen() {
    const offer = this.offer('eigenvector')
    const cells = this.#cells(offer)
    if (!offer || !cells) return null
    const values = this.stages.find((each) => each.stage === offer.stage).columns.eigenvalues
    const outside = this.offers.find((each) => each.name === 'outside' && each.stage === offer.stage && each.there)
    return { cells, values, vectors: cells.values, count: cells.height * cells.width, outside: this.#cells(outside) }
  }

  #fetchStrip() {
    if (!this.offer('eigenvector')) return
    const eigen = this.#eigen()
    if (!eigen || this.strip.childElementCount) return
    const { cells, values } = eigen
    fill(this.strip, values.map((value, k) => {
      const canvas = this.#vector(k, document.createElement('canvas'))
      canvas.setAttribute('aria-hidden', 'true')
      const gap = k + 1 < values.length ? values[k + 1] - value : null
      return h('button', { type: 'button', 'data-k': k, onclick: () => this.vector(k),
        title: gap === null ? null : `gap to the next: ${shown(gap)}`, 'aria-label': `eigenvector ${k}, eigenvalue ${shown(value)}${gap === null ? '' : `, gap ${shown(gap)}`}` },
      canvas, h('span', {}, h('strong', {}, k), ` ${shown(value)}`), h('span', { class: 'muted' }, gap === null ? ' ' : `gap ${shown(gap)}`))
    }))
    for (const each of this.strip.querySelectorAll('canvas')) each.style.setProperty('aspect-ratio', `${cells.width} / ${cells.height}`)
  }

  /** @param {number} k @param {HTMLCanvasElement} [canvas] */
  #vector(k, canvas) {
    const { cells, count, vectors } = /** @type {any} */ (this.#eigen())
    return diverging(vectors, k * count, this.#limit(k), cells.width, cells.height, canvas)
  }

  /** A few extreme patches must not wash out the rest. @param {number} k */
  #limit(k) {
    const { count, vectors } = /** @type {any} */ (this.#eigen())
    return this.#once(`limit ${k}`, () => Math.max(quantile(vectors.subarray(k * count, (k + 1) * count).map(Math.abs), 0.98), 1e-12))
  }

  /** @template T @param {string} key @param {() => T} make @returns {T} */
  #once(key, make) {
    if (!this.drawn.has(key)) this.drawn.set(key, make())
    return this.drawn.get(key)
  }

  // ---- the photograph

  /** Ask for as many pixels as are shown. @param {number} [after] milliseconds */
  #sharper(after = SETTLED_MS) {
    clearTimeout(this.zoomTimer)
    this.zoomTimer = setTimeout(() => this.#photo(), after)
  }

  async #photo() {
    if (this.signal.aborted) return
    const longest = Math.max(...this.size)
    const wanted = Math.min(longest, Math.max(...this.size) / this.size[0] * (this.view.across || 640))
    const side = SIDES.find((each) => each >= wanted) ?? 2048
    const query = { stage: this.about.stage, run: this.run, v: this.about.content }
    const path = `images/${this.about.row}.jpg`
    try {
      if (side > this.side) {
        if (!this.side) fill(this.ground, loading('the photograph'))
        this.view.photo = await askPicture(path, { ...query, side }, this.signal)
        this.side = side
        fill(this.ground)
        this.view.draw()
      }
      if (wanted <= 2048) { this.view.detail = null; return }
      const [left, top, right, bottom] = this.view.seen
      const [w, t] = this.size
      const box = [Math.floor(left * w), Math.floor(top * t), Math.min(w, Math.ceil(right * w)), Math.min(t, Math.ceil(bottom * t))]
      const picture = await askPicture(path, { ...query, side: 2048, box: box.join(',') }, this.signal)
      this.view.detail = { picture, box: [box[0] / w, box[1] / t, box[2] / w, box[3] / t] }
      this.view.draw()
    } catch (error) {
      if (/** @type {Error} */ (error).name === 'AbortError') return
      fill(this.ground, failed('The photograph', error, () => this.#photo()), this.side ? null : h('p', { class: 'note' }, 'What was found in it is drawn over grey.'))
    }
  }

  // ---- drawing

  /** Draw with the next frame. */
  update() {
    this.frame ||= requestAnimationFrame(() => { this.frame = 0; if (!this.signal.aborted) this.#now() })
  }

  #now() {
    if (this.offer('tree') && !this.tree) this.#fetchTree()
    if (this.offer('eigenvector') && !this.strip.childElementCount) this.#fetchStrip()
    const { looks, view } = this
    view.layers = []
    view.cross = null
    this.#area()
    this.#lines()
    for (const each of this.strip.children) each.setAttribute('aria-pressed', String(looks.area === 'eigenvector' && Number(each.getAttribute('data-k')) === looks.k))
    for (const each of this.controls.querySelectorAll('[data-key]')) {
      const key = /** @type {string} */ (each.getAttribute('data-key'))
      each.setAttribute('aria-pressed', String(key === looks.area || looks.lines.has(key)))
    }
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (this.controls.querySelectorAll('[data-for]')))
      each.hidden = !(each.dataset.for ?? '').split(' ').some((key) => key === this.#areaName() || (looks.lines.has(key) && this.offer(key)) || (key === 'area' && looks.area))
    this.treePlace.hidden = this.#areaName() !== 'tree'
    view.drawNow()
    this.#read()
  }

  #areaName() {
    return this.offers.find((each) => each.key === this.looks.area)?.name ?? ''
  }

  #area() {
    const { looks, view } = this
    const offer = this.offer(looks.area)
    if (!offer) { fill(this.legend); this.legendOf = ''; return }
    const common = { alpha: looks.opacity, smooth: looks.smooth }
    if (offer.name === 'eigenvector' || offer.name === 'affinity') {
      const eigen = this.#eigen()
      if (!eigen) return
      const { cells, outside } = eigen
      const place = { grid: /** @type {[number, number]} */ ([cells.height, cells.width]), cover: cells.cover }
      if (offer.name === 'eigenvector') {
        looks.k = Math.max(0, Math.min(looks.k, eigen.values.length - 1))
        const limit = this.#limit(looks.k)
        view.layers.push({ ...place, ...common, cells: this.#vector(looks.k, this.canvases.vector) })
        this.#scale('diverging', `Eigenvector ${looks.k}, eigenvalue ${shown(eigen.values[looks.k], 4)}`, [shown(-limit), '0', shown(limit)])
      } else {
        const patch = this.patch ?? 0
        this.row = liftRow(eigen, patch, looks.t, looks.vectors || eigen.values.length)
        const limit = Math.max(quantile(this.row, 0.99), 1e-12)
        view.layers.push({ ...place, ...common, cells: rising(this.row, limit, cells.width, cells.height, this.canvases.lift) })
        view.cross = middleOf(cells, patch)
        this.#scale('rising', `Affinity from ${Math.min(looks.vectors || eigen.values.length, eigen.values.length)} eigenvectors, × chance`, ['0', '', `${shown(limit, 2)} ×`])
      }
      if (outside) view.layers.push({ ...place, cover: outside.cover, lines: this.#once('hatching', () => hatching(outside)), color: '#c9d2dc', thick: 0.8 })
      return
    }
    const cells = this.#cells(offer)
    if (!cells) return
    const place = { grid: /** @type {[number, number]} */ ([cells.height, cells.width]), cover: cells.cover }
    if (offer.name === 'tree') { this.#level(cells, place, common); return }
    const named = offer.name === 'regions' ? {} : this.stages.find((each) => each.stage === offer.stage).legend ?? {}
    const color = (/** @type {number} */ value) => (named[value] ? colorOf(named[value][0]) : anyColor(value))
    view.layers.push({ ...place, ...common, smooth: false, cells: this.#once(offer.key, () => colored(cells, color)) })
    view.layers.push({ ...place, thick: 1, lines: this.#once(`${offer.key} edges`, () => edges(cells.width, cells.height, (i) => (cells.values[i] === cells.ignore ? 0 : cells.values[i] + 1))) })
    const there = this.#once(`${offer.key} values`, () => [...new Set(Array.from(cells.values))].filter((value) => value !== cells.ignore).sort((a, b) => a - b))
    this.#once(`${offer.key} legend`, () => null)
    this.#list(offer.key, there.map((value) => [css(color(value)), named[value]?.[1] ? `${value} ${named[value][1]}` : String(value)]))
  }

  /** @param {Cells} cells @param {any} place @param {any} common */
  #level(cells, place, common) {
    fill(this.legend)
    this.legendOf = ''
    if (!this.tree) return
    const { nodes } = this.tree.tree
    const cut = nodesAt(nodes, this.looks.depth)
    this.cut = cut
    const of = (/** @type {number} */ i) => (cells.values[i] < 0 ? -1 : cut[cells.values[i]])
    const colors = this.#once('colors of nodes', () => nodes.map((/** @type {any} */ node) => colorOf(node.color)))
    const { view } = this
    view.layers.push({ ...place, ...common, smooth: false, cells: this.#once(`level ${this.looks.depth}`, () => colored({ ...cells, ignore: -1 }, (value) => colors[cut[value]])) })
    view.layers.push({ ...place, thick: 1, lines: this.#once(`level edges ${this.looks.depth}`, () => edges(cells.width, cells.height, (i) => of(i) + 1)) })
    const node = this.hovered ?? this.looks.node
    if (node !== null && nodes[node]) {
      const end = nodes[node].end
      view.layers.push({ ...place, thick: 3, color: '#ffe14d', lines: this.#once(`node ${node}`, () => edges(cells.width, cells.height, (i) => (cells.values[i] >= node && cells.values[i] < end ? 1 : 0))) })
    }
  }

  /** @param {'rising' | 'diverging'} which @param {string} title @param {string[]} marks */
  #scale(which, title, marks) {
    if (this.legendOf !== which) {
      const bar = scaleBar(which)
      bar.className = 'bar'
      bar.setAttribute('aria-hidden', 'true')
      fill(this.legend, h('p', {}), bar, h('p', { class: 'marks' }, marks.map(() => h('span', {}))))
      this.legendOf = which
    }
    const [head, , foot] = this.legend.children
    head.textContent = title
    marks.forEach((mark, i) => { foot.children[i].textContent = mark })
  }

  /** @param {string} key @param {[string, string][]} entries */
  #list(key, entries) {
    if (this.legendOf === key) return
    this.legendOf = key
    fill(this.legend, h('ul', {}, entries.map(([color, text]) => h('li', {}, h('span', { class: 'swatch', 'aria-hidden': 'true', style: { background: color } }), h('bdi', {}, text)))))
  }

  #lines() {
    const { looks, view } = this
    const on = (/** @type {string} */ name) => this.offers.filter((each) => each.name === name && each.there && looks.lines.has(each.key))
    for (const offer of on('mask')) {
      const cells = this.#cells(offer)
      if (!cells) continue
      const place = { grid: /** @type {[number, number]} */ ([cells.height, cells.width]), cover: cells.cover }
      const most = this.#once(`${offer.key} most`, () => cells.values.length ? Array.from(cells.values).reduce((a, b) => Math.max(a, b), 0) : 0)
      if (looks.style === 'cut') view.layers.push({ ...place, cut: true, cells: this.#once(`${offer.key} cut`, () => colored({ ...cells, ignore: 0 }, () => [0, 0, 0])) })
      if (looks.style === 'fill') view.layers.push({ ...place, alpha: 0.45, cells: this.#once(`${offer.key} fill`, () => colored({ ...cells, ignore: 0 }, (value) => OBJECTS[(value - 1) % OBJECTS.length])) })
      if (looks.style !== 'cut') for (let object = most; object >= 1; object--)
        view.layers.push({ ...place, color: css(OBJECTS[(object - 1) % OBJECTS.length]), lines: this.#once(`${offer.key} ${object}`, () => edges(cells.width, cells.height, (i) => (cells.values[i] === object ? 1 : 0))) })
    }
    for (const offer of on('truth')) {
      const cells = this.#cells(offer)
      if (!cells) continue
      const place = { grid: /** @type {[number, number]} */ ([cells.height, cells.width]), cover: cells.cover }
      const object = this.stages.find((each) => each.stage === offer.stage).kind === 'objects'
      if (looks.truth === 'fill') view.layers.push({ ...place, alpha: 0.5, cells: this.#once(`${offer.key} fill`, () => colored(cells, (value) => (object ? (value ? TRUTH : null) : anyColor(value)))) })
      view.layers.push({ ...place, dashed: true, color: css(TRUTH), lines: this.#once(offer.key, () => edges(cells.width, cells.height, (i) => (cells.values[i] === cells.ignore ? 0 : object ? cells.values[i] : cells.values[i] + 1))) })
    }
    for (const offer of on('box')) this.#boxes(offer).forEach((box, i) => {
      const path = new Path2D()
      path.rect(box[0], box[1], box[2] - box[0], box[3] - box[1])
      view.layers.push({ grid: [this.size[1], this.size[0]], cover: [1, 1], lines: path, thick: 1.5, color: i ? css(OBJECTS[i % OBJECTS.length]) : '#ffffff' })
    })
    for (const offer of on('outside')) {
      const cells = this.#cells(offer)
      if (cells) view.layers.push({ grid: [cells.height, cells.width], cover: cells.cover, lines: this.#once('hatching', () => hatching(cells)), color: '#c9d2dc', thick: 0.8 })
    }
  }

  /** @param {Offer} offer @returns {number[][]} */
  #boxes(offer) {
    const { columns } = this.stages.find((each) => each.stage === offer.stage)
    const several = columns.objects?.map?.((/** @type {any} */ each) => each.bbox_xyxy).filter(Boolean)
    return several?.length ? several : columns.bbox_xyxy ? [columns.bbox_xyxy] : []
  }

  // ---- what is under the pointer

  /** The patch whose affinity is shown. */
  get patch() {
    const cells = this.#cells(this.offer('eigenvector'))
    if (!cells) return null
    const count = cells.height * cells.width
    if (this.looks.patch === null) this.looks.patch = Math.floor(cells.height / 2) * cells.width + Math.floor(cells.width / 2)
    return Math.max(0, Math.min(count - 1, this.looks.patch))
  }

  /** @param {number} x @param {number} y */
  #pointed(x, y) {
    this.pointer = [x, y]
    if (this.#areaName() === 'affinity' && !this.pinned) {
      const cells = this.#cells(this.offer('eigenvector'))
      if (cells) this.looks.patch = cellAt(cells, x, y)
    }
    if (this.#areaName() === 'tree') {
      this.hovered = this.#nodeAt(x, y)
      this.tree?.mark(this.hovered)
      this.tree?.tell(this.hovered ?? this.looks.node)
    }
    this.update()
  }

  #left() {
    this.pointer = null
    this.hovered = null
    this.tree?.mark(null)
    this.tree?.tell(this.looks.node)
    if (this.#areaName() === 'affinity') this.changed()
    this.update()
  }

  /** @param {number} x @param {number} y */
  #picked(x, y) {
    this.canvas.focus({ preventScroll: true })
    const area = this.#areaName()
    if (area === 'tree') {
      const node = this.#nodeAt(x, y)
      if (node !== null) this.tree?.choose(node)
    } else if (this.offer('eigenvector')) {
      const cells = this.#cells(this.offer('eigenvector'))
      if (!cells) return
      const patch = cellAt(cells, x, y)
      this.pinned = !(this.pinned && patch === this.looks.patch)
      this.looks.patch = patch
      if (area !== 'affinity' && area !== 'eigenvector') return
      this.changed()
      this.update()
    }
  }

  get canvas() { return this.view.canvas }

  /** @param {number} x @param {number} y @returns {number | null} */
  #nodeAt(x, y) {
    const cells = this.#cells(this.offer(this.looks.area))
    if (!cells || !this.cut) return null
    const leaf = cells.values[cellAt(cells, x, y)]
    return leaf < 0 ? null : this.cut[leaf]
  }

  /** The text twin of the picture. */
  #read() {
    const area = this.#areaName()
    const eigen = this.offer('eigenvector') ? this.#eigen() : null
    const ofPatch = area === 'affinity' || (area === 'eigenvector' && !this.pointer)
    const at = ofPatch && !this.pointer && eigen && this.patch !== null ? middleOf(eigen.cells, this.patch) : this.pointer
    if (!at) { fill(this.twin, h('span', { class: 'muted' }, 'Point at the picture, or move with the arrows while it has the focus.')); this.twin.removeAttribute('data-value'); return }
    const words = [`x ${Math.floor(at[0] * this.size[0])}, y ${Math.floor(at[1] * this.size[1])}`]
    let value = null
    if (eigen) {
      const { cells, count, vectors } = eigen
      const cell = cellAt(cells, at[0], at[1])
      words.push(`patch ${cell} (row ${Math.floor(cell / cells.width)}, column ${cell % cells.width})`)
      if (eigen.outside?.values[cell]) words.push('left out of the graph')
      if (area === 'eigenvector') { value = vectors[this.looks.k * count + cell]; words.push(`eigenvector ${this.looks.k}: ${value.toPrecision(4)}`) }
      if (area === 'affinity' && this.row) {
        value = this.row[cell]
        words.push(`${value.toPrecision(4)} × chance to patch ${this.patch}${this.pinned ? ', pinned' : ''}`)
      }
    }
    if (area === 'tree' && this.tree) {
      const node = this.hovered ?? this.#nodeAt(at[0], at[1])
      if (node !== null) { value = node; words.push(`node ${pathTo(this.tree.tree.nodes, node).join(' › ')}`) }
    }
    if (area === 'labels' || area === 'regions') {
      const offer = /** @type {Offer} */ (this.offer(this.looks.area)), cells = this.#cells(offer)
      if (cells) {
        value = cells.values[cellAt(cells, at[0], at[1])]
        const named = this.stages.find((each) => each.stage === offer.stage).legend?.[value]
        words.push(value === cells.ignore ? `no ${area === 'labels' ? 'label' : 'region'}` : `${area === 'labels' ? 'label' : 'region'} ${value}${area === 'labels' && named?.[1] ? ` ${named[1]}` : ''}`)
      }
    }
    for (const name of ['mask', 'truth']) {
      const cells = this.looks.lines.has(name) ? this.#cells(this.offer(name)) : null
      if (!cells) continue
      const found = cells.values[cellAt(cells, at[0], at[1])]
      words.push(`${name} ${found === cells.ignore && name === 'truth' ? 'not said' : found}`)
    }
    if (value === null) this.twin.removeAttribute('data-value')
    else this.twin.setAttribute('data-value', String(value))
    fill(this.twin, words.join(' · '))
  }

  // ---- what is done by keys and buttons

  /** @param {KeyboardEvent} event */
  #key(event) {
    /** @type {Record<string, [number, number]>} */
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
    const arrow = arrows[event.key]
    if (event.ctrlKey || event.metaKey || event.altKey) return
    if (arrow) this.move(arrow[0] * (event.shiftKey ? 5 : 1), arrow[1] * (event.shiftKey ? 5 : 1))
    else if (event.key === 'Enter') this.enter()
    else return
    event.preventDefault()
  }

  /** Move the patch, or the point that is read out. @param {number} across @param {number} down */
  move(across, down) {
    const area = this.#areaName()
    const cells = this.#cells(this.offer(area === 'tree' || area === 'labels' || area === 'regions' ? this.looks.area : 'eigenvector'))
    if ((area === 'affinity' || area === 'eigenvector') && cells && this.patch !== null) {
      const x = Math.max(0, Math.min(cells.width - 1, this.patch % cells.width + across))
      const y = Math.max(0, Math.min(cells.height - 1, Math.floor(this.patch / cells.width) + down))
      this.looks.patch = y * cells.width + x
      this.pointer = null
      this.pinned = true
      this.changed()
      this.#now()
    } else {
      const [high, wide] = cells && cells.height < 200 ? [cells.height, cells.width] : this.about.grid ?? [32, 32]
      const [x, y] = this.pointer ?? [0.5 - 0.5 / wide, 0.5 - 0.5 / high]
      const to = (/** @type {number} */ at, /** @type {number} */ by, /** @type {number} */ of) => (Math.max(0, Math.min(of - 1, Math.floor(at * of) + by)) + 0.5) / of
      this.#pointed(to(x, across, wide), to(y, down, high))
      this.view.cross = this.pointer
      this.#now()
      this.view.cross = this.pointer
      this.view.draw()
    }
    say(this.twin.textContent ?? '')
  }

  enter() {
    if (this.#areaName() === 'tree' && this.pointer) { this.#picked(...this.pointer); return }
    if (this.#areaName() !== 'affinity') return
    this.pinned = !this.pinned
    this.changed()
    this.#now()
    say(this.pinned ? 'pinned' : 'follows the pointer')
  }

  /** Show an area, or no longer. @param {string} key */
  area(key) {
    const offer = this.offer(key)
    if (!offer) {
      const known = this.offers.find((each) => each.name === key || each.key === key)
      say(known ? `${known.title}: ${known.why}` : 'There is none')
      return
    }
    this.looks.area = this.looks.area === key ? '' : key
    if (this.looks.area === 'affinity') this.canvas.focus({ preventScroll: true })
    this.hovered = null
    this.changed()
    this.update()
    say(this.looks.area ? offer.title : 'Photograph')
  }

  /** Show lines, or no longer. @param {string} key */
  line(key) {
    const offer = this.offer(key)
    if (!offer) {
      const known = this.offers.find((each) => each.name === key)
      say(known ? `${known.title}: ${known.why}` : 'There is none')
      return
    }
    if (!this.looks.lines.delete(key)) this.looks.lines.add(key)
    this.changed()
    this.update()
    say(`${offer.title} ${this.looks.lines.has(key) ? 'shown' : 'hidden'}`)
  }

  /** @param {number} k */
  vector(k) {
    const eigen = this.offer('eigenvector') && this.#eigen()
    if (!eigen) { this.area('eigenvector'); return }
    this.looks.k = Math.max(0, Math.min(eigen.values.length - 1, k))
    this.looks.area = 'eigenvector'
    this.changed()
    this.#now()
    say(`Eigenvector ${this.looks.k}, eigenvalue ${shown(eigen.values[this.looks.k], 4)}`)
  }

  /** @param {number} depth */
  depth(depth) {
    if (!this.tree) return
    this.looks.depth = Math.max(0, Math.min(this.tree.tree.deepest, depth))
    if (this.looks.node !== null && this.tree.tree.nodes[this.looks.node].depth > this.looks.depth) this.looks.node = null
    this.tree.level(this.looks.depth)
    this.tree.tell(this.looks.node)
    if (this.depthInput) this.depthInput.value = String(this.looks.depth)
    this.#depthWords()
    this.changed()
    this.#now()
  }

  #depthWords() {
    if (!this.tree || !this.depthText) return
    const { nodes, deepest } = this.tree.tree
    const leaves = nodes.flatMap((node, i) => (node.end === i + 1 ? [i] : []))
    const cut = nodesAt(nodes, this.looks.depth)
    this.depthText.textContent = `${this.looks.depth} of ${deepest}: ${new Set(leaves.map((leaf) => cut[leaf])).size} regions`
  }

  /** A step on or back, of depth or of the eigenvector. @param {number} by */
  step(by) {
    if (this.#areaName() === 'tree') { this.depth(this.looks.depth + by); say(this.depthText?.textContent ?? '') }
    else this.vector(this.looks.area === 'eigenvector' ? this.looks.k + by : this.looks.k)
  }

  /** @param {number | null} node @param {boolean} chosen */
  #lit(node, chosen) {
    this.hovered = chosen ? null : node
    if (chosen) { this.looks.node = node; this.changed() }
    this.tree?.tell(this.hovered ?? this.looks.node)
    this.update()
  }

  #zooming() {
    const button = (/** @type {string} */ text, /** @type {string} */ label, /** @type {() => void} */ does) => h('button', { type: 'button', 'aria-label': label, title: label, onclick: does }, text)
    return h('div', { class: 'zooming', role: 'group', 'aria-label': 'Zoom' }, button('+', 'Zoom in', () => this.view.zoom(1.5)), button('−', 'Zoom out', () => this.view.zoom(1 / 1.5)),
      button('All', 'Whole image', () => this.view.fit()), button('1:1', 'A pixel of the image for a pixel of the screen', () => this.view.zoom(this.size[0] / Math.max(1, this.view.across))),
      h('span', { class: 'note' }, 'wheel zooms, dragging moves'))
  }

  #controls() {
    const { looks } = this
    const many = new Set(this.offers.filter((each) => each.there).map((each) => each.stage)).size > 1
    const titled = (/** @type {Offer} */ offer) => (many && offer.there ? `${offer.title} (${offer.stage})` : offer.title)
    const keys = /** @type {Record<string, string>} */ ({ mask: 'm', truth: 't', box: 'b', labels: 'l', affinity: 'a' })
    const choice = (/** @type {Offer} */ offer, /** @type {() => void} */ does) =>
      h('button', { type: 'button', 'data-key': offer.key, disabled: !offer.there, title: offer.why, 'aria-pressed': 'false', onclick: does },
        titled(offer), offer.there && keys[offer.key] ? [' ', h('kbd', {}, keys[offer.key])] : null)
    const areas = this.offers.filter((each) => !LINES.includes(each.name)), lines = this.offers.filter((each) => LINES.includes(each.name))
    const slider = (/** @type {string} */ id, /** @type {string} */ label, /** @type {Record<string, any>} */ range, /** @type {(value: number) => string} */ set) => {
      const words = h('output', { for: id })
      const input = h('input', { type: 'range', id, ...range, oninput: () => { words.textContent = set(Number(input.value)); this.changed(); this.update() } })
      words.textContent = set(Number(input.value))
      return [h('label', { for: id }, label), input, words]
    }
    const options = (/** @type {string} */ id, /** @type {string} */ label, /** @type {[string, string][]} */ values, /** @type {string} */ now, /** @type {(value: string) => void} */ set) => {
      const select = h('select', { id, onchange: () => { set(select.value); this.changed(); this.update() } }, values.map(([value, text]) => h('option', { value, selected: value === now }, text)))
      return [h('label', { for: id }, label), select]
    }
    const most = this.stages.map((each) => each.columns.eigenvalues?.length ?? 0).reduce((a, b) => Math.max(a, b), 0)
    const missing = [...areas, ...lines].filter((each) => !each.there)
    fill(this.controls,
      h('div', { class: 'choices', role: 'group', 'aria-label': 'Over the whole picture' },
        h('button', { type: 'button', 'data-key': '', onclick: () => { looks.area = ''; this.changed(); this.update() } }, 'Photograph'),
        areas.map((offer) => choice(offer, () => this.area(offer.key)))),
      h('div', { class: 'choices', role: 'group', 'aria-label': 'Around parts' }, lines.map((offer) => choice(offer, () => this.line(offer.key)))),
      h('p', { class: 'slider', 'data-for': 'area' }, slider('opacity', 'Opacity', { min: 0, max: 100, value: Math.round(100 * looks.opacity) }, (value) => { looks.opacity = value / 100; return `${value} %` })),
      h('p', { class: 'slider', 'data-for': 'eigenvector affinity' }, options('smooth', 'Between patches', [['', 'nearest'], ['1', 'smooth']], looks.smooth ? '1' : '', (value) => { looks.smooth = value === '1' })),
      h('p', { class: 'slider', 'data-for': 'affinity' }, options('steps', 'Steps t', STEPS.map((each) => [String(each), String(each)]), String(looks.t), (value) => { looks.t = Number(value) })),
      most ? h('p', { class: 'slider', 'data-for': 'affinity' }, slider('vectors', 'Eigenvectors K', { min: 1, max: most, value: looks.vectors || most }, (value) => { looks.vectors = value === most ? 0 : value; return `${value} of ${most}` })) : null,
      h('p', { class: 'slider', 'data-for': 'mask' }, options('style', 'Mask as', [['outline', 'outline'], ['fill', 'fill'], ['cut', 'cut out']], looks.style, (value) => { looks.style = value })),
      h('p', { class: 'slider', 'data-for': 'truth' }, options('truth-style', 'Truth as', [['outline', 'outline'], ['fill', 'fill']], looks.truth, (value) => { looks.truth = value })),
      missing.length ? h('details', { class: 'missing' }, h('summary', {}, `Why ${missing.length} of these are not there`),
        h('ul', {}, missing.map((offer) => h('li', {}, h('strong', {}, offer.title), `: ${offer.why}`)))) : null)
  }
}

/**
 * Which layers there are, by name; of several stages the first keeps the plain name, the others add theirs.
 * @param {any[]} stages @returns {Offer[]}
 */
function offered(stages) {
  /** @type {Offer[]} */
  const found = []
  const titles = /** @type {[string, string, string][]} */ ([['labels', 'labels', 'Labels'], ['regions', 'regions', 'Regions'], ['nodes', 'tree', 'Tree'],
    ['eigenvectors', 'eigenvector', 'Eigenvector'], ['eigenvectors', 'affinity', 'Affinity'], ['mask', 'mask', 'Mask'], ['truth', 'truth', 'Truth'], ['mask', 'box', 'Box'], ['outside', 'outside', 'Left out of the graph']])
  for (const [layer, name, title] of titles) {
    const all = stages.map((stage) => ({ stage: stage.stage, ...stage.layers.find((/** @type {any} */ each) => each.name === layer) }))
    const there = all.filter((each) => each.there)
    if (!there.length) found.push({ key: name, name, title, stage: all[0].stage, there: false, why: withCommand(name, all[0].why) })
    const kept = name === 'eigenvector' || name === 'affinity' || name === 'tree' ? there.slice(0, 1) : there
    kept.forEach((each, i) => found.push({ key: i ? `${name}@${each.stage}` : name, name, title, stage: each.stage, there: true, why: null }))
  }
  return found
}

/** @param {string} name @param {string | null} why */
function withCommand(name, why) {
  return name === 'affinity' && why && !why.includes('failed') ? `no eigenvectors are stored: ${why}` : why ?? 'there is none'
}

