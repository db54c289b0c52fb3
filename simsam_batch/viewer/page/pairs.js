// Pairs of images: where each point of one was found in the other, and how far from where it should be.

import { go, stay, to } from './address.js'
import { attention } from './attention.js'
import { ask, askArray, url } from './asking.js'
import { fill, h, name, say, shown, svg, wide } from './dom.js'
import { cellsOf, rising } from './layers.js'
import { anywhere } from './live.js'
import { PAGE, leave, list, listOf } from './pairlist.js'
import { none, when } from './states.js'

const ALPHAS = ['0.01', '0.05', '0.1', '0.15']
const MARK = 8

/** @type {import('./main.js').Screen} */
export const pairs = { title: 'Pairs', fits: (about) => about.stages.some((/** @type {any} */ each) => each.kind === 'pairs'), show }

/** @param {import('./main.js').View} view */
async function show(view) {
  const { query, path } = view.address
  const all = view.about.stages.filter((/** @type {any} */ each) => each.kind === 'pairs')
  const stage = query.stage ? all.find((/** @type {any} */ each) => each.name === query.stage) : all[0]
  if (!stage) {
    fill(view.place, h('h1', {}, 'Pairs'), all.length ? none(`The run has no pairs of a stage ${query.stage}; it has ${all.map((/** @type {any} */ each) => each.name).join(', ')}.`)
      : none('The run has no pairs.', 'simsam correspond PAIRS OUT'))
  } else if (path.length) await onePair(view, path[0], stage.name)
  else await list(view, stage)
}

/** @param {string} label @param {string[][]} options @param {string} value @param {(value: string) => void} changed */
function choice(label, options, value, changed) {
  return h('label', {}, `${label} `, h('select', { onchange: (/** @type {any} */ event) => changed(event.target.value) },
    options.map(([of, text]) => h('option', { value: of, selected: of === value }, text))))
}

/** Right, wrong or not known at an alpha. @param {any} pair @param {any} point @param {number} alpha */
export function verdict(pair, point, alpha) {
  if (point.distance === null || pair.length === null) return point.fault && point.true_x !== null ? 'wrong' : 'unknown'
  return point.distance <= alpha * pair.length ? 'right' : 'wrong'
}

/** @param {import('./main.js').View} view @param {string} number @param {string} stage */
async function onePair(view, number, stage) {
  view.title(`Pair ${number}`)
  await when(view.place, 'the pair', async () => {
    const pair = await ask(`api/pairs/${encodeURIComponent(number)}`, { stage }, view.signal)
    const { q, sort, desc } = listOf(view.address.query)
    leave(pair.pair)
    // a filter that cannot be read is no reason not to show the pair
    const near = await ask('api/neighbours', { stage, q, sort, desc, row: pair.pair }, view.signal).catch((error) => { if (view.signal.aborted) throw error; return { place: null, previous: null, next: null } })
    return { ...pair, near }
  }, (pair) => whole(view, pair))
}

/** @param {import('./main.js').View} view @param {any} pair */
function whole(view, pair) {
  const state = { alpha: ALPHAS.includes(view.address.query.alpha) ? view.address.query.alpha : '0.1', point: view.address.query.point ?? '' }
  const stage = view.address.query.stage
  const drawing = h('div', { class: 'drawing' })
  const table = wide('Points')
  const about = h('div', { class: 'point', role: 'status' })
  const layers = attention(view, pair)
  const tall = matchMedia('(max-width: 640px)')
  let heat = ''
  let asked = 0
  const live = anywhere(view, pair, async (answer) => {
    asked++
    state.point = ''
    heat = ''
    if (answer) {
      const mine = asked
      const [down, across] = answer.grid
      const made = await blobOf(rising(answer.map.map((/** @type {number} */ each) => Math.max(0, each)), Math.max(...answer.map, 1e-6), across, down))
      view.signal.addEventListener('abort', () => URL.revokeObjectURL(made))
      if (mine !== asked) return
      heat = made
      covered = answer.cover
      layers.show(null)
    }
    const held = drawing.querySelector('.live:focus') !== null
    draw()
    if (held) /** @type {any} */ (drawing.querySelector('.live'))?.focus()
  })

  const choose = (/** @type {number} */ index) => {
    state.point = String(index)
    heat = ''
    live.forget()
    update()
    say(`Point ${pair.points[index].name ?? index + 1}`)
    map(index)
    layers.show(index)
  }
  const update = () => {
    stay(to('pairs', [pair.pair], { ...listOf(view.address.query), alpha: state.alpha === '0.1' ? '' : state.alpha, point: state.point }))
    draw()
    rows()
    told()
  }

  async function map(/** @type {number} */ index) {
    const mine = ++asked
    if (!pair.maps) return
    try {
      const cells = cellsOf(await askArray(`layers/pairs/${pair.pair}/${index}`, { stage }, view.signal))
      if (mine !== asked) return
      const canvas = rising(Array.from(cells.values, (each) => Math.max(0, each)), Math.max(...Array.from(cells.values)), cells.width, cells.height)
      const made = await blobOf(canvas)
      view.signal.addEventListener('abort', () => URL.revokeObjectURL(made))
      if (mine !== asked) return
      heat = made
      covered = cells.cover
      draw()
    } catch (error) {
      if (/** @type {Error} */ (error).name !== 'AbortError') fill(about, h('p', { class: 'fault' }, /** @type {Error} */ (error).message))
    }
  }
  /** @type {[number, number]} */
  let covered = [1, 1]

  function draw() {
    const [w1, h1] = pair.source_size
    const [w2, h2] = pair.target_size
    const gap = 12
    // both at one height beside each other, or at one width below each other
    const first = tall.matches ? 400 / w1 : 400 / h1
    const second = tall.matches ? 400 / w2 : 400 / h2
    const dx = tall.matches ? 0 : w1 * first + gap
    const dy = tall.matches ? h1 * first + gap : 0
    const width = tall.matches ? 400 : dx + w2 * second
    const height = tall.matches ? dy + h2 * second : 400
    const place = (/** @type {number} */ x, /** @type {number} */ y) => [dx + (x + 0.5) * second, dy + (y + 0.5) * second]
    const jpg = (/** @type {string} */ end) => url(`pairs/${pair.pair}/${end}.jpg`, { side: 1280, stage, v: pair.digests[end] })
    fill(drawing, svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `${pair.source} and ${pair.target}` },
      svg('image', { class: live.on ? 'source' : '', href: jpg('source'), width: w1 * first, height: h1 * first, preserveAspectRatio: 'none', onclick: (/** @type {any} */ event) => live.pressed(event, /** @type {SVGSVGElement} */ (drawing.firstElementChild), first) }),
      svg('image', { href: jpg('target'), x: dx, y: dy, width: w2 * second, height: h2 * second, preserveAspectRatio: 'none' }),
      heat ? svg('image', { class: 'heat', href: heat, x: dx, y: dy, width: w2 * second * covered[1], height: h2 * second * covered[0], preserveAspectRatio: 'none' }) : null,
      pair.points.map((/** @type {any} */ point, /** @type {number} */ index) => {
        const how = verdict(pair, point, Number(state.alpha))
        const a = [(point.source_x + 0.5) * first, (point.source_y + 0.5) * first]
        const b = point.x === null ? null : place(point.x, point.y)
        const label = `${point.name ?? `point ${index + 1}`}: ${how}`
        const chosen = state.point === String(index)
        return svg('g', {
          class: `match ${how}${chosen ? ' chosen' : ''}`, tabindex: 0, role: 'button', 'aria-label': label, 'aria-pressed': String(chosen),
          onclick: () => choose(index),
          onkeydown: (/** @type {any} */ event) => { if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); choose(index); focusOn(index) } },
        },
        svg('title', {}, label),
        b ? svg('line', { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }) : null,
        svg('circle', { class: 'target', cx: a[0], cy: a[1], r: 12 }), svg('circle', { cx: a[0], cy: a[1], r: MARK / 2 }),
        b ? (how === 'wrong' ? svg('rect', { x: b[0] - MARK / 2, y: b[1] - MARK / 2, width: MARK, height: MARK }) : svg('circle', { cx: b[0], cy: b[1], r: MARK / 2 })) : null,
        point.true_x !== null && point.true_x !== undefined ? cross(place(point.true_x, point.true_y)) : null)
      }),
      live.marks(first, place)))
  }
  const focusOn = (/** @type {number} */ index) => /** @type {SVGElement[]} */ ([...drawing.querySelectorAll('.match')])[index]?.focus()

  function rows() {
    fill(table, h('table', {}, h('caption', {}, 'Points; distances in pixels of the target'),
      h('thead', {}, h('tr', {}, ['point', 'at this alpha', 'distance', 'similarity', 'margin', 'mutual'].map((each) => h('th', { scope: 'col' }, each)))),
      h('tbody', {}, pair.points.map((/** @type {any} */ point, /** @type {number} */ index) => h('tr', {},
        h('th', { scope: 'row' }, h('button', { type: 'button', 'aria-pressed': String(state.point === String(index)), onclick: () => { choose(index); table.querySelectorAll('button')[index].focus() } }, name(point.name ?? `point ${index + 1}`, 40))),
        h('td', {}, verdict(pair, point, Number(state.alpha)), point.fault ? ` (${point.fault})` : ''),
        h('td', { class: 'number' }, shown(point.distance, 1)), h('td', { class: 'number' }, shown(point.similarity)), h('td', { class: 'number' }, shown(point.margin)),
        h('td', {}, point.mutual === null ? '–' : point.mutual ? 'yes' : 'no'))))))
  }

  function told() {
    const point = pair.points[Number(state.point || NaN)]
    fill(about, point ? h('p', {}, h('strong', {}, name(point.name ?? `point ${Number(state.point) + 1}`, 60)),
      ` from ${at(point.source_x, point.source_y)} found at ${at(point.x, point.y)}; it should be at ${at(point.true_x, point.true_y)}.`) : h('p', { class: 'muted' }, 'Choose a point, in the picture or in the table.'),
    pair.maps ? null : none('The similarity of a point with every patch is not stored.', 'simsam correspond … --maps fp16'))
  }

  const listed = listOf(view.address.query)
  const near = pair.near
  // the page of the list that the pair is on
  const all = to('pairs', [], { ...listed, page: near.place >= PAGE ? 1 + Math.floor(near.place / PAGE) : null })
  const link = (/** @type {number} */ of) => to('pairs', [of], { ...listed, alpha: state.alpha })
  const head = [
    h('p', { class: 'steps' }, h('a', { href: all }, 'All pairs'),
      near.previous !== null ? h('a', { href: link(near.previous) }, 'Previous') : null,
      near.next !== null ? h('a', { href: link(near.next) }, 'Next') : null,
      h('span', { class: 'note' }, near.place === null ? 'not in this list' : `${shown(near.place + 1)} of ${shown(near.total)}`)),
    h('h1', {}, name(pair.id, 80))]
  if (pair.status !== 'ok') return [...head, h('p', { class: 'state fault' }, `The pair failed: ${pair.error}`)]
  view.keys({
    n: { does: 'next pair', run: () => { if (near.next !== null) go(link(near.next)) } },
    p: { does: 'previous pair', run: () => { if (near.previous !== null) go(link(near.previous)) } },
    Escape: { does: 'to the list', run: () => go(all) },
  })
  tall.addEventListener('change', draw, { signal: view.signal })
  update()
  if (pair.points[Number(state.point || NaN)]) {
    map(Number(state.point))
    layers.show(Number(state.point))
  }
  return [...head,
    h('div', { class: 'choices' }, choice('Right within', ALPHAS.map((each) => [each, `${each} of the ${pair.threshold ?? 'length'}`]), state.alpha, (alpha) => { state.alpha = alpha; update() }),
      h('p', { class: 'legend' }, 'Blue, whole line, circle: right. Orange, dashed, square: wrong. White, dotted: no truth. Cross: where it should be.')),
    live.words, drawing, about, layers.element, table]
}

/** @param {number | null} x @param {number | null} y */
function at(x, y) {
  return x === null || x === undefined ? 'a place not known' : `${shown(x, 1)}, ${shown(y, 1)}`
}

/** @param {number[]} middle */
function cross([x, y]) {
  return svg('path', { class: 'truth', d: `M${x - 6} ${y - 6}l12 12m0 -12l-12 12` })
}

/** @param {HTMLCanvasElement} canvas @returns {Promise<string>} */
function blobOf(canvas) {
  return new Promise((done) => canvas.toBlob((blob) => done(blob ? URL.createObjectURL(blob) : '')))
}
