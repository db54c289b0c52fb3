// The picture of one image with its layers: how it is looked at, moved through by pointer and keys.

import { ask } from './asking.js'
import { LayerView } from './canvas.js'
import { LayerControls, zooming } from './controls.js'
import { Cosines } from './cosines.js'
import { fill, h, say, shown } from './dom.js'
import { areaOf, linesOf, truthLegend } from './drawn.js'
import { Finding } from './finding.js'
import { Found } from './found.js'
import { cellAt, middleOf } from './layers.js'
import { Legend } from './legend.js'
import { Photograph } from './photograph.js'
import { readAt } from './readout.js'
import { Strip } from './strip.js'
import { nodesAt, TreePanel } from './tree.js'

/**
 * How it is looked at: what the address holds.
 * @typedef {object} Looks
 * @property {string} area what is drawn all over the photograph: the key of an offer, '' for none
 * @property {Set<string>} lines keys of what is drawn around parts of it
 * @property {number} k @property {number} t @property {number} vectors @property {number | null} node @property {number | null} patch
 * @property {number} depth @property {number} opacity @property {boolean} smooth @property {string} style @property {string} truth
 * @property {number} [drawing] of the truth, from 0 @property {number | null} other the row of the image in which the patch is found
 */

const ARROWS = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] })

export class ImagePane {
  /**
   * @param {object} given
   * @param {any} given.about of the row in the stage that it was opened from
   * @param {any[]} given.stages what `api/images` says of it in every stage of images, that stage first, each with `stage` and `settings`
   * @param {Looks} given.looks changed in place
   * @param {import('./offers.js').Live} given.live
   * @param {string} given.run
   * @param {AbortSignal} given.signal
   * @param {(row: number) => Promise<{previous: number | null, next: number | null}>} given.near what stands beside a row in the list
   * @param {() => void} given.changed the looks have changed
   */
  constructor({ about, stages, looks, live, run, signal, near, changed }) {
    this.about = about
    this.looks = looks
    this.run = run
    this.signal = signal
    this.changed = changed
    this.pinned = looks.patch !== null
    /** @type {number | null} */
    this.hovered = null
    /** @type {[number, number] | null} */
    this.pointer = null
    this.frame = 0
    /** By how many patches keys have moved before there were any. */
    this.due = [0, 0]
    /** What lies over the whole picture. @type {import('./drawn.js').Area | null} */
    this.over = null
    this.canvases = { vector: document.createElement('canvas'), lift: document.createElement('canvas') }
    /** @type {TreePanel | null} */
    this.tree = null
    this.view = new LayerView(`${about.id}, with what was found in it`, {
      point: (x, y) => this.#pointed(x, y), leave: () => this.#left(), pick: (x, y) => this.#picked(x, y), key: (event) => this.#key(event), moved: () => this.photograph.sharper() })
    this.view.sized(about.size[0], about.size[1])
    this.found = new Found({ about, stages, live, run, signal, ready: () => this.update() })
    const offer = this.found.offer('cosine')
    const asked = offer && { about, stage: offer.stage, run, signal }
    /** None where nothing can be asked live. */
    this.cosines = asked ? new Cosines({ ...asked, ready: () => this.update() }) : null
    this.finding = asked ? new Finding({ ...asked, looks, near, changed: () => { changed(); this.update() } }) : null
    /** What a key has moved is said as soon as it is there. */
    this.saying = false
    this.photograph = new Photograph(this.view, about, run, signal)
    this.strip = new Strip(this.found, (k) => this.vector(k))
    this.legend = new Legend()
    this.truthLegend = new Legend()
    this.controls = new LayerControls(this.found, looks, { area: (key) => this.area(key), line: (key) => this.line(key), changed: () => { this.changed(); this.update() } })
    this.twin = h('p', { class: 'twin' })
    this.treePlace = h('div', { class: 'tree-place' })
    this.picture = h('div', { class: 'pane' }, zooming(this.view, about.size), this.view.element, this.twin, this.photograph.state, this.found.state, this.cosines?.state)
    this.side1 = h('div', { class: 'pane-side' }, this.controls.element, this.legend.element, this.truthLegend.element, this.finding?.element, this.treePlace, this.strip.element)
  }

  start() {
    this.photograph.sharper(0)
    this.finding?.start()
    this.update()
  }

  get canvas() { return this.view.canvas }

  /** The offer of a key, if it is there. @param {string} key */
  offer(key) {
    return this.found.offer(key)
  }

  #areaName() {
    return this.found.nameOf(this.looks.area)
  }

  // ---- drawing

  /** Draw with the next frame. */
  update() {
    this.frame ||= requestAnimationFrame(() => { this.frame = 0; if (!this.signal.aborted) this.#now() })
  }

  #now() {
    const { looks, view, found } = this
    if (!this.tree) this.#makeTree()
    if ((this.due[0] || this.due[1]) && this.#patches()) {
      const [across, down] = this.due
      this.due = [0, 0]
      this.move(across, down)
      return
    }
    found.drawing = looks.drawing ?? 0
    const nodes = this.tree?.tree.nodes ?? null
    const area = this.#areaName()
    const cosine = area === 'cosine' && this.patch !== null ? this.cosines?.of(this.patch) ?? null : null
    this.over = areaOf(found, looks, { patch: area === 'affinity' ? this.patch : null, cosine, nodes, node: this.hovered ?? looks.node }, this.canvases)
    view.layers = [...this.over?.layers ?? [], ...linesOf(found, looks)]
    const source = this.#source()
    view.cross = this.over?.cross ?? source?.middle ?? null
    this.finding?.follow(source)
    this.legend.show(this.over?.legend ?? null)
    this.truthLegend.show(truthLegend(found, looks))
    this.strip.update(looks.area === 'eigenvector' ? looks.k : null)
    this.controls.update()
    this.treePlace.hidden = area !== 'tree'
    view.drawNow()
    this.#read()
    if (this.saying && (area !== 'cosine' || this.over?.cosine?.patch === this.patch)) { this.saying = false; say(this.twin.textContent ?? '') }
  }

  /** The patch that is found in the other image, if there is one. */
  #source() {
    if (this.looks.other === null || !this.finding || this.patch === null) return null
    const { patch, about: { size } } = this, middle = middleOf(this.#patches() ?? /** @type {Cosines} */ (this.cosines).cells, patch)
    return { patch, middle, x: middle[0] * size[0] - 0.5, y: middle[1] * size[1] - 0.5 }
  }

  /** The text twin of the picture. */
  #read() {
    const area = this.#areaName()
    const cosine = this.over?.cosine
    const cells = cosine?.cells ?? (area === 'affinity' || area === 'eigenvector' ? this.found.eigen()?.cells : null)
    const at = this.pointer ?? (cells && this.patch !== null ? middleOf(cells, this.patch) : null)
    const { words, value } = at ? readAt(this.found, this.looks, at, {
      lift: this.over?.lift, cosine, patch: this.patch, pinned: this.pinned, nodes: this.tree?.tree.nodes ?? null, node: area === 'tree' ? this.hovered ?? this.#nodeAt(at[0], at[1]) : null }) : { words: [], value: null }
    if (value === null) this.twin.removeAttribute('data-value')
    else this.twin.setAttribute('data-value', String(value))
    fill(this.twin, at ? words.join(' · ') : h('span', { class: 'muted' }, 'Point at the picture, or move with the arrows while it has the focus.'))
  }

  // ---- the tree

  #makeTree() {
    const offer = this.offer('tree')
    if (!offer) return
    const tree = /** @type {any} */ (this.found.get('tree', 'Tree', () => ask(`api/trees/${this.about.row}`, { stage: offer.stage, run: this.run }, this.signal)))
    if (!tree) return
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

  /** @param {number | null} node @param {boolean} chosen */
  #lit(node, chosen) {
    this.hovered = chosen ? null : node
    if (chosen) { this.looks.node = node; this.changed() }
    this.tree?.tell(this.hovered ?? this.looks.node)
    this.update()
  }

  /** @param {number} x @param {number} y @returns {number | null} */
  #nodeAt(x, y) {
    const cells = this.found.cells(this.offer(this.looks.area)), cut = this.over?.cut
    if (!cells || !cut) return null
    const leaf = cells.values[cellAt(cells, x, y)]
    return leaf < 0 ? null : cut[leaf]
  }

  // ---- the pointer

  /** What the patches are: of the features where their cosine is shown, else of the eigenvectors. */
  #patches() {
    const asked = this.cosines?.cells ?? null
    return this.#areaName() === 'cosine' ? asked : this.found.cells(this.offer('eigenvector')) ?? asked
  }

  /** Whether what is shown is about one patch. */
  #ofPatch() {
    return ['affinity', 'cosine'].includes(this.#areaName())
  }

  /** The patch whose affinity is shown. */
  get patch() {
    const cells = this.#patches()
    if (!cells) return null
    const count = cells.height * cells.width
    if (this.looks.patch === null) this.looks.patch = Math.floor(cells.height / 2) * cells.width + Math.floor(cells.width / 2)
    return Math.max(0, Math.min(count - 1, this.looks.patch))
  }

  /** @param {number} x @param {number} y */
  #pointed(x, y) {
    this.pointer = [x, y]
    if (this.#ofPatch() && !this.pinned) {
      const cells = this.#patches()
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
    if (this.#ofPatch()) this.changed()
    this.update()
  }

  /** @param {number} x @param {number} y */
  #picked(x, y) {
    this.canvas.focus({ preventScroll: true })
    const area = this.#areaName()
    if (area === 'tree') {
      const node = this.#nodeAt(x, y)
      if (node !== null) this.tree?.choose(node)
    } else {
      const cells = this.#patches()
      if (!cells) return
      const patch = cellAt(cells, x, y)
      this.pinned = !(this.pinned && patch === this.looks.patch)
      this.looks.patch = patch
      if (!this.#ofPatch() && area !== 'eigenvector' && this.looks.other === null) return
      this.changed()
      this.update()
    }
  }

  // ---- what is done by keys and buttons

  /** @param {KeyboardEvent} event */
  #key(event) {
    const arrow = ARROWS[event.key]
    if (event.ctrlKey || event.metaKey || event.altKey) return
    if (arrow) this.move(arrow[0] * (event.shiftKey ? 5 : 1), arrow[1] * (event.shiftKey ? 5 : 1))
    else if (event.key === 'Enter') this.enter()
    else return
    event.preventDefault()
  }

  /** Move the patch, or the point that is read out. @param {number} across @param {number} down */
  move(across, down) {
    const area = this.#areaName()
    const cells = area === 'tree' || area === 'labels' || area === 'regions' ? this.found.cells(this.offer(this.looks.area)) : this.#patches()
    const ofPatches = this.#ofPatch() || area === 'eigenvector'
    if (ofPatches && !cells && this.offer(this.looks.area)) this.due = [this.due[0] + across, this.due[1] + down]
    else if (ofPatches && cells && this.patch !== null) {
      const x = Math.max(0, Math.min(cells.width - 1, this.patch % cells.width + across))
      const y = Math.max(0, Math.min(cells.height - 1, Math.floor(this.patch / cells.width) + down))
      this.looks.patch = y * cells.width + x
      this.pointer = null
      this.pinned = true
      this.changed()
      this.saying = true
      this.#now()
    } else {
      const [high, wide] = cells && cells.height < 200 ? [cells.height, cells.width] : this.about.grid ?? [32, 32]
      const [x, y] = this.pointer ?? [0.5 - 0.5 / wide, 0.5 - 0.5 / high]
      const to = (/** @type {number} */ at, /** @type {number} */ by, /** @type {number} */ of) => (Math.max(0, Math.min(of - 1, Math.floor(at * of) + by)) + 0.5) / of
      this.#pointed(to(x, across, wide), to(y, down, high))
      this.#now()
      this.view.cross = this.pointer
      this.view.draw()
      say(this.twin.textContent ?? '')
    }
  }

  enter() {
    if (this.#areaName() === 'tree' && this.pointer) { this.#picked(...this.pointer); return }
    if (!this.#ofPatch()) return
    this.pinned = !this.pinned
    this.changed()
    this.#now()
    say(this.pinned ? 'pinned' : 'follows the pointer')
  }

  /** The offer of a key; if it is not there the reason is said. @param {string} key */
  #offerOrWhy(key) {
    const known = this.found.offers.find((each) => each.key === key) ?? this.found.offers.find((each) => each.name === key)
    if (!known?.there) say(known ? `${known.title}: ${known.why}` : 'There is none')
    return known?.there ? known : null
  }

  /** Show an area, or no longer; '' for none. @param {string} key */
  area(key) {
    const offer = key ? this.#offerOrWhy(key) : null
    if (key && !offer) return
    this.looks.area = this.looks.area === key ? '' : key
    if (this.#ofPatch()) this.canvas.focus({ preventScroll: true })
    this.hovered = null
    this.changed()
    this.update()
    say(this.looks.area && offer ? offer.title : 'Photograph')
  }

  /** Show lines, or no longer. @param {string} key */
  line(key) {
    const offer = this.#offerOrWhy(key)
    if (!offer) return
    if (!this.looks.lines.delete(key)) this.looks.lines.add(key)
    this.changed()
    this.update()
    say(`${offer.title} ${this.looks.lines.has(key) ? 'shown' : 'hidden'}`)
  }

  /** Find the patch in the next image of the list, or the one before. @param {'previous' | 'next'} which */
  find(which) {
    if (this.finding) this.finding.step(which)
    else this.#offerOrWhy('cosine')
  }

  /** @param {number} k */
  vector(k) {
    const eigen = this.offer('eigenvector') && this.found.eigen()
    if (!eigen) { this.area('eigenvector'); return }
    this.looks.k = Math.max(0, Math.min(eigen.values.length - 1, k))
    this.looks.area = 'eigenvector'
    this.changed()
    this.#now()
    say(`Eigenvector ${this.looks.k}, eigenvalue ${shown(eigen.values[this.looks.k], 4)}`)
  }

  /** A step on or back, of depth or of the eigenvector. @param {number} by */
  step(by) {
    if (this.#areaName() === 'tree') { this.depth(this.looks.depth + by); say(this.depthText?.textContent ?? '') }
    else this.vector(this.looks.area === 'eigenvector' ? this.looks.k + by : this.looks.k)
  }
}
