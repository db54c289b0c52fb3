// The tree of an image beside its picture: its levels, its nodes, the path to the root.

import { to } from './address.js'
import { fill, h, shown } from './dom.js'

/**
 * @typedef {object} Node
 * @property {number} parent @property {number} depth @property {number} end the first node after its descendants
 * @property {number} patches @property {number | null} ncut @property {number | null} gap
 * @property {string | null} outcome @property {number | null} label @property {string} color
 */

/** The node of each node's region when the tree is cut at a depth: itself, or its ancestor there. @param {Node[]} nodes @param {number} depth */
export function nodesAt(nodes, depth) {
  const found = new Int32Array(nodes.length)
  nodes.forEach((node, i) => { found[i] = node.depth > depth ? found[node.parent] : i })
  return found
}

/** From the root to a node. @param {Node[]} nodes @param {number} node */
export function pathTo(nodes, node) {
  /** @type {number[]} */
  const path = []
  for (let at = node; at >= 0; at = nodes[at].parent) path.unshift(at)
  return path
}

export class TreePanel {
  /**
   * @param {{nodes: Node[], deepest: number, labels_named: Record<string, string> | null}} tree
   * @param {string} stage
   * @param {boolean} clustered whether labels are those of clusters
   * @param {(node: number | null, chosen: boolean) => void} lit a node is looked at, or chosen for good
   */
  constructor(tree, stage, clustered, lit) {
    this.tree = tree
    this.stage = stage
    this.clustered = clustered
    this.lit = lit
    /** @type {Set<number>} */
    this.open = new Set()
    this.active = 0
    /** @type {Map<number, HTMLElement>} */
    this.items = new Map()
    this.list = h('div', { role: 'tree', 'aria-label': 'Nodes of the tree', class: 'nodes', onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) })
    this.list.addEventListener('pointerleave', () => lit(null, false))
    this.about = h('div', { class: 'about-node' })
    this.element = h('div', { class: 'tree-panel' }, this.list, this.about)
  }

  /** Show the nodes down to a depth. @param {number} depth */
  level(depth) {
    const { nodes } = this.tree
    this.open = new Set(nodes.flatMap((node, i) => (node.depth < depth && node.end > i + 1 ? [i] : [])))
    while (nodes[this.active].depth > depth) this.active = nodes[this.active].parent
    this.#paint()
  }

  /** Mark a node that the picture points at. @param {number | null} node */
  mark(node) {
    for (const each of this.list.querySelectorAll('.lit')) each.classList.remove('lit')
    if (node === null) return
    const item = this.items.get(node)
    if (!item) return
    item.classList.add('lit')
    const { offsetTop: top, offsetHeight: height } = item
    if (top < this.list.scrollTop) this.list.scrollTop = top
    else if (top + height > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + height - this.list.clientHeight
  }

  /** Choose a node, and show it. @param {number} node @param {boolean} [focus] */
  choose(node, focus = false) {
    for (const each of pathTo(this.tree.nodes, node).slice(0, -1)) this.open.add(each)
    this.active = node
    this.#paint()
    this.mark(node)
    if (focus) this.items.get(node)?.focus()
    this.lit(node, true)
  }

  /** What is known of a node. @param {number | null} node */
  tell(node) {
    const { nodes, labels_named: names } = this.tree
    if (node === null) { fill(this.about, h('p', { class: 'note' }, 'Point at a region, or choose a node.')); return }
    const of = nodes[node]
    /** @type {[string, import('./dom.js').Child | import('./dom.js').Child[]][]} */
    const facts = [['depth', of.depth], ['patches', shown(of.patches)], ['ncut', shown(of.ncut)], ['gap', shown(of.gap)], ['outcome', of.outcome ?? '–'],
      ['label', of.label === null || of.label === undefined ? '–' : [String(of.label), names?.[of.label] ? ` ${names[of.label]}` : '']]]
    fill(this.about,
      h('h3', {}, `Node ${node}`),
      h('dl', {}, facts.map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value)))),
      h('p', { class: 'path' }, 'From the root: ', pathTo(nodes, node).map((each, i) =>
        [i ? ' › ' : '', h('button', { type: 'button', 'aria-current': each === node ? 'true' : null, onclick: () => this.choose(each, true) }, each)]).flat()),
      of.label === null || of.label === undefined ? null : h('p', {},
        h('a', { class: 'elsewhere', href: to('browse', [], { stage: this.stage, q: `label:${of.label}`, show: 'tree' }) }, 'Same label elsewhere'),
        this.clustered ? [' ', h('a', { class: 'elsewhere', href: to('clusters', [this.stage, of.label]) }, 'Its regions')] : null))
  }

  #visible() {
    const { nodes } = this.tree
    const found = []
    for (let i = 0; i < nodes.length; i = this.open.has(i) ? i + 1 : nodes[i].end) found.push(i)
    return found
  }

  #paint() {
    const { nodes } = this.tree
    const focused = this.list.contains(document.activeElement)
    this.items.clear()
    fill(this.list, this.#visible().map((i) => {
      const node = nodes[i], leaf = node.end === i + 1
      const item = h('div', { role: 'treeitem', 'aria-level': node.depth + 1, 'aria-expanded': leaf ? null : String(this.open.has(i)), 'aria-selected': String(i === this.active),
        tabindex: i === this.active ? 0 : -1, 'data-node': i, style: { 'padding-left': `${0.3 + Math.min(node.depth, 9) * 0.8}rem` } },
      h('span', { class: 'twig', 'aria-hidden': 'true' }, leaf ? '·' : this.open.has(i) ? '▾' : '▸'),
      h('span', { class: 'swatch', 'aria-hidden': 'true', style: { background: node.color } }),
      h('span', { class: 'what' }, `${i}`, h('span', { class: 'muted' }, ` ${shown(node.patches)} patches${node.label === null || node.label === undefined ? '' : `, label ${node.label}`}`)))
      item.addEventListener('pointerenter', () => this.lit(i, false))
      item.addEventListener('focus', () => { if (this.active !== i) this.#move(i); this.lit(i, false) })
      item.addEventListener('click', (event) => {
        if (!leaf && event.target instanceof Element && event.target.classList.contains('twig')) this.#toggle(i)
        else this.choose(i, true)
      })
      this.items.set(i, item)
      return item
    }))
    if (focused) this.items.get(this.active)?.focus()
  }

  /** @param {number} node */
  #move(node) {
    const before = this.items.get(this.active), now = this.items.get(node)
    before?.setAttribute('tabindex', '-1')
    before?.setAttribute('aria-selected', 'false')
    now?.setAttribute('tabindex', '0')
    now?.setAttribute('aria-selected', 'true')
    this.active = node
    this.lit(node, true)
  }

  /** @param {number} node */
  #toggle(node) {
    if (!this.open.delete(node)) this.open.add(node)
    this.#paint()
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { nodes } = this.tree, at = this.active, visible = this.#visible(), place = visible.indexOf(at)
    const inner = nodes[at].end > at + 1
    /** @type {number | undefined} */
    let next
    if (event.key === 'ArrowDown') next = visible[place + 1]
    else if (event.key === 'ArrowUp') next = visible[place - 1]
    else if (event.key === 'Home') next = 0
    else if (event.key === 'End') next = visible.at(-1)
    else if (event.key === 'ArrowRight') { if (inner && !this.open.has(at)) this.#toggle(at); else if (inner) next = at + 1 }
    else if (event.key === 'ArrowLeft') { if (this.open.has(at)) this.#toggle(at); else if (nodes[at].parent >= 0) next = nodes[at].parent }
    else if (event.key === 'Enter' || event.key === ' ') this.choose(at, true)
    else return
    event.preventDefault()
    event.stopPropagation()
    if (next !== undefined && next >= 0) {
      this.#move(next)
      this.items.get(next)?.focus()
    }
  }
}
