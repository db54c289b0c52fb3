// One image of two runs: side by side with one zoom, or one picture that is swiped, and the values that differ.

import { go, stay, to } from './address.js'
import { ask, askArray, askPicture } from './asking.js'
import { fill, h, name, say, shown, signed, wide } from './dom.js'
import { flagBar, flagKeys } from './flagging.js'
import { cellsOf, css, edges, TRUTH } from './layers.js'
import { failed, loading, none } from './states.js'
import { Swipe } from './swipe.js'

const SIDE = 1280
/** @type {Record<string, [string, string][]>} */
const OVERLAYS = {
  objects: [['mask', 'Mask'], ['none', 'Photograph']], labels: [['labels', 'Labels'], ['none', 'Photograph']],
  trees: [['tree', 'Tree'], ['labels', 'Labels'], ['none', 'Photograph']], restyled: [['styled', 'Restyled'], ['none', 'Photograph']],
}

/**
 * @param {import('./main.js').View} view
 * @param {any} found of `api/compare/{row}`
 * @param {Record<string, any>} asked which list it is of
 */
export function twice(view, found, asked) {
  const { query } = view.address
  const layers = OVERLAYS[found.kind] ?? [['none', 'Photograph']]
  const looks = { layer: query.layer ?? layers[0][0], truth: query.truth === '1', depth: Number(query.depth) || 3 }
  // the list is opened at the page that the image is on
  const address = (/** @type {(string | number)[]} */ path) => to('compare', path, path.length
    ? { ...asked, page: null, layer: looks.layer === layers[0][0] ? null : looks.layer, truth: looks.truth && 1, swipe: swipe.over && 1, depth: looks.depth === 3 ? null : looks.depth } : asked)
  const sides = /** @type {const} */ (['a', 'b']).map((run) => ({ run, row: /** @type {number} */ (run === 'a' ? found.row_a : found.row_b), asked: 0 }))
  const swipe = new Swipe({ names: ['A', 'B'], labels: [`A: ${found.id}`, `B: ${found.id}`], over: query.swipe === '1', changed: () => dress() })
  const { views, states } = swipe
  const values = h('div', {}), flags = h('div', { class: 'flags' })
  const layer = h('select', { id: 'compare-layer', onchange: () => { looks.layer = layer.value; paint() } }, layers.map(([of, words]) => h('option', { value: of, selected: of === looks.layer }, words)))
  const depth = h('input', { type: 'number', min: 0, max: 64, value: looks.depth, onchange: () => { looks.depth = Math.max(0, Math.min(64, Number(depth.value) || 0)); paint() } })
  const truth = h('button', { type: 'button', onclick: () => turnTruth() }, 'Truth ', h('kbd', {}, 't'))
  const depths = h('label', {}, 'depth ', depth)

  function turnTruth() { looks.truth = !looks.truth; paint() }
  function dress() {
    stay(address([found.row_a]))
    truth.setAttribute('aria-pressed', String(looks.truth))
    depths.hidden = looks.layer !== 'tree'
  }

  /** @param {number} i */
  async function side(i) {
    const { run, row } = sides[i], state = states[i], mine = ++sides[i].asked
    try {
      if (!views[i].photo) fill(state, loading('the picture'))
      const more = looks.layer === 'tree' ? { depth: looks.depth } : {}
      const photo = await askPicture(`images/${row}.jpg`, { run, stage: asked.stage, side: SIDE, overlay: looks.layer, ...more }, view.signal)
      const lines = looks.truth ? cellsOf(await askArray(`layers/${encodeURIComponent(asked.stage)}/${row}/truth`, { run }, view.signal)) : null
      if (mine !== sides[i].asked) return
      if (!views[i].photo) views[i].sized(photo.width, photo.height)
      views[i].photo = photo
      views[i].layers = lines ? [{ grid: [lines.height, lines.width], cover: lines.cover, dashed: true, color: css(TRUTH),
        lines: edges(lines.width, lines.height, (at) => (lines.values[at] === lines.ignore ? 0 : found.kind === 'objects' ? lines.values[at] : lines.values[at] + 1)) }] : []
      views[i].draw()
      fill(state)
    } catch (error) {
      if (!view.signal.aborted && mine === sides[i].asked) fill(state, failed(`The picture of ${run.toUpperCase()}`, error, () => side(i)))
    }
  }
  function paint() { dress(); side(0); side(1) }

  async function differing() {
    fill(values, loading('the values'))
    try {
      const [a, b] = await Promise.all(sides.map(({ run, row }) => ask(`api/images/${row}`, { run, stage: asked.stage }, view.signal)))
      const told = (/** @type {any} */ value) => (typeof value === 'number' ? shown(value, 4) : value === null || value === undefined ? '–' : typeof value === 'object' ? JSON.stringify(value).slice(0, 80) : String(value))
      const names = Object.keys(a.columns).filter((each) => each in b.columns && JSON.stringify(a.columns[each]) !== JSON.stringify(b.columns[each]))
      fill(values, names.length ? wide('Values that differ', h('table', {}, h('caption', {}, 'Values that differ'), h('thead', {}, h('tr', {}, ['value', 'A', 'B'].map((each) => h('th', { scope: 'col' }, each)))),
        h('tbody', {}, names.map((each) => h('tr', {}, h('th', { scope: 'row', title: a.docs?.[each] }, each), [a, b].map((of) => h('td', { class: 'number' }, told(of.columns[each])))))))) : none('All values of this image are the same in both.'))
    } catch (error) {
      if (!view.signal.aborted) fill(values, failed('The values', error, differing))
    }
  }

  /** @type {any} */
  let flag = null
  const changed = (/** @type {number[]} */ rows, /** @type {any} */ now) => { if (rows.includes(found.row_a)) { flag = now; showFlags() } }
  const showFlags = () => { if (!flags.contains(document.activeElement)) fill(flags, flagBar(view, asked.stage, [found.row_a], flag, changed)) }
  ask('api/flags', { stage: asked.stage, run: 'a', row: found.row_a }, view.signal).then((answer) => {
    const of = answer.flags.filter((/** @type {any} */ each) => each.row === found.row_a && each.verdict)
    flag = of.find((/** @type {any} */ each) => each.reviewer === view.about.flags.reviewer) ?? of.at(-1) ?? null
    showFlags()
  }).catch((error) => { if (!view.signal.aborted) fill(flags, failed('The flags', error)) })

  const step = (/** @type {number | null} */ row) => { if (row === null) say('There is no further image in this list'); else go(address([row])) }
  view.keys({
    ...swipe.keys(),
    t: { does: 'truth', run: turnTruth },
    m: { does: 'mask, labels or tree, or the photograph', run: () => { layer.value = looks.layer = looks.layer === 'none' ? layers[0][0] : 'none'; paint() } },
    n: { does: 'next image', run: () => step(found.next) }, p: { does: 'image before', run: () => step(found.previous) },
    ...flagKeys(view, () => ({ stage: asked.stage, run: 'a', rows: [found.row_a], flag, changed })),
    Escape: { does: 'to the list', run: () => go(address([])) },
  })
  paint()
  differing()
  return [
    h('nav', { class: 'choices', 'aria-label': 'In the list' }, h('a', { href: address([]) }, 'All images'),
      found.previous === null ? null : h('a', { href: address([found.previous]) }, 'Before'), found.next === null ? null : h('a', { href: address([found.next]) }, 'Next'),
      h('span', { class: 'muted' }, found.place === null ? 'not in this list' : `${shown(found.place + 1)} of ${shown(found.total)}`)),
    h('h2', {}, name(found.id, 90)),
    h('p', {}, found.metric ? `${found.metric}: A ${shown(found.a)}, B ${shown(found.b)}, B − A ${signed(found.difference)}. ` : null,
      found.kind === 'objects' ? `Agreement of the masks (IoU): ${found.agreement === null ? 'not known, one has none or another size' : shown(found.agreement)}.` : 'Agreement: none; it is of object masks.'),
    h('div', { class: 'choices' }, h('label', {}, 'Layer ', layer), depths, truth, swipe.button, swipe.zooming),
    swipe.line, swipe.figures, ...states, flags, values,
  ]
}
