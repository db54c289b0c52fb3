// Many images at once: filtered, sorted, page by page.

import { go, stay, step, to } from './address.js'
import { ask, url } from './asking.js'
import { card } from './cards.js'
import { fill, h, say, shown } from './dom.js'
import { facets } from './facets.js'
import { filterLine } from './filterline.js'
import { flagBar, flagKeys } from './flagging.js'
import { isOff } from './keys.js'
import { pages } from './pages.js'
import { failed, loading, none } from './states.js'

const PAGE = 60
const AGAIN_MS = 1000
const HEADLINES = ['iou', 'confidence', 'nmcovering', 'region_count', 'leaves']
/** @type {Record<string, string[]>} */
const OVERLAYS = { objects: ['mask', 'none'], labels: ['labels', 'none'], trees: ['tree', 'labels', 'none'], restyled: ['styled', 'none'] }
/** @type {Record<string, string>} */
const OVERLAY_NAMES = { mask: 'mask', labels: 'labels', tree: 'tree', styled: 'restyled', none: 'none' }
// the card that was opened last, for coming back to it
let left = { at: '', row: -1, top: 0 }
const DRAWN = ['objects', 'labels', 'trees', 'restyled']

/** @type {import('./main.js').Screen} */
export const browse = { title: 'Browse', fits: (about) => about.stages.some((/** @type {any} */ stage) => stage.of_images), show }

/** @param {import('./main.js').View} view */
function show(view) {
  const stages = view.about.stages.filter((/** @type {any} */ each) => each.of_images)
  const asked = view.address.query
  const stage = asked.stage ? stages.find((/** @type {any} */ each) => each.name === asked.stage) : stages.filter((/** @type {any} */ each) => DRAWN.includes(each.kind)).at(-1) ?? stages.at(-1)
  if (!stage) {
    fill(view.place, h('h1', {}, 'Browse'), stages.length
      ? none(`The run has no stage ${asked.stage} of images; it has ${stages.map((/** @type {any} */ each) => each.name).join(', ')}.`)
      : none('No stage about images has begun in this run yet.', 'simsam segment IMAGES OUT'))
    return
  }
  screen(view, stage, stages)
}

/** @param {import('./main.js').View} view @param {any} stage @param {any[]} stages */
function screen(view, stage, stages) {
  /** @type {any[]} */
  const columns = stage.columns ?? []
  const named = new Set(columns.map((each) => each.name))
  const overlays = (OVERLAYS[stage.kind] ?? ['none']).filter((each) => each !== 'labels' || stage.labelled)
  const state = read(view.address.query, overlays)
  /** @type {Map<number, import('./cards.js').Row>} */
  const rows = new Map()
  /** @type {Set<number>} */
  const chosen = new Set()
  /** Flags of rows that may be on other pages by now. @type {Map<number, any>} */
  const known = new Map()
  // the card that a range of choosing begins with
  let anchor = -1
  let total = 0
  let at = -1
  let last = new AbortController()
  let typing = false
  let again = 0
  let back = left.at === location.hash
  view.signal.addEventListener('abort', () => { clearTimeout(again); last.abort() })

  const line = filterLine({
    text: state.q, columns: [{ name: 'id', kind: 'id' }, { name: 'flag', kind: 'words' }, ...labelled(stage), ...columns],
    words: (name) => panel.words(name),
    changed: (q, done) => {
      if (q !== state.q) change({ q, page: 1 }, typing)
      // one step for back for all that is typed at once
      typing = !done
    },
  })
  const panel = facets({ signal: view.signal, stage: stage.name, columns: [...columns, { name: 'flag', kind: 'words' }, ...labelled(stage)],
    changed: (q) => { line.set(q); change({ q, page: 1 }) }, reading: partly })
  const count = h('p', { class: 'total' })
  const reading = h('p', { class: 'note reading', hidden: true })
  const list = h('ol', { class: 'cards', 'aria-label': 'Images' })
  const body = h('div', { class: 'body' }, list)
  const links = h('nav', { class: 'pages', 'aria-label': 'Pages' })
  const linksAbove = h('nav', { class: 'pages above', 'aria-label': 'Pages, above the images' })
  const bar = h('section', { class: 'chosenbar', 'aria-label': 'Chosen images', hidden: true })
  const sort = select('Sort by', 'sort', [['', 'order of the input'], ['random', 'random'], ['id', 'id'], ...columns.map((each) => [each.name, each.name])], state.sort, (value) => change({ sort: value, page: 1 }))
  const turn = h('button', { type: 'button', class: 'turn', 'aria-pressed': 'false', onclick: () => change({ desc: !state.desc, page: 1 }) }, '')
  const overlay = overlays.length > 1 ? select('Overlay', 'overlay', overlays.map((each) => [each, OVERLAY_NAMES[each]]), state.show, (value) => change({ show: value })) : null
  const depth = h('label', { class: 'depth' }, 'Depth ', h('input', { type: 'number', min: 0, max: 1000, value: state.depth, onchange: (/** @type {any} */ event) => change({ depth: Math.max(0, Number(event.target.value) || 0) }) }))
  const stageChoice = stages.length > 1 ? select('Stage', 'stage', stages.map((each) => [each.name, each.name]), stage.name, (value) => go(to('browse', [], { stage: value }))) : null
  const lists = h('p', { class: 'lists' })
  const sideways = h('details', { class: 'side' }, h('summary', {}, 'Counts and ranges'), panel.element)
  // on a narrow screen the images come first
  sideways.open = window.matchMedia('(min-width: 60rem)').matches

  fill(view.place,
    h('div', { class: 'top' }, h('h1', {}, 'Browse'), count, reading),
    line.element,
    h('div', { class: 'columns' },
      sideways,
      h('div', { class: 'found' },
        h('div', { class: 'controls' }, stageChoice, sort, turn, overlay, depth, linksAbove),
        body, bar, h('div', { class: 'foot' }, links, goTo(view, stage.name)), lists)))

  list.addEventListener('focusin', (event) => {
    const place = Array.from(list.children).findIndex((each) => each.contains(/** @type {Node} */ (event.target)))
    if (place >= 0) roving(place)
  })
  list.addEventListener('click', (event) => {
    const opened = /** @type {HTMLElement} */ (event.target).closest('a')?.closest('li')
    if (opened) left = { at: location.hash, row: Number(opened.dataset.row), top: window.scrollY }
  })
  for (const place of [links, linksAbove]) place.addEventListener('click', turned)
  view.keys(keys())
  controls()
  paint()
  load()

  /** @param {Partial<typeof state>} changes @param {boolean} [quiet] without a step for back */
  function change(changes, quiet = false) {
    const before = { ...state }
    Object.assign(state, changes)
    const hash = address()
    if (quiet) stay(hash)
    else if (hash !== location.hash) step(hash)
    controls()
    if (['q', 'sort', 'desc', 'page'].some((each) => before[/** @type {keyof typeof state} */ (each)] !== state[/** @type {keyof typeof state} */ (each)])) return load()
    draw()
    return Promise.resolve()
  }

  /** @param {Partial<typeof state>} [changes] */
  function address(changes = {}) {
    const { q, sort: by, desc, page, show: over, depth: deep } = { ...state, ...changes }
    return to('browse', [], { stage: view.address.query.stage ? stage.name : stages.length > 1 ? stage.name : '', q, sort: by, desc: desc ? 1 : '', page: page > 1 ? page : '',
      show: over === overlays[0] ? '' : over, depth: over === 'tree' && deep !== DEPTH ? deep : '' })
  }

  /** What the controls say. */
  function controls() {
    const by = sort.querySelector('select')
    if (by) by.value = state.sort
    if (by && by.value !== state.sort) by.value = ''
    turn.setAttribute('aria-pressed', String(state.desc))
    const number = columns.find((each) => each.name === state.sort && each.kind !== 'words')
    fill(turn, state.desc ? '↓ ' : '↑ ', number ? (state.desc ? 'largest first' : 'smallest first') : state.desc ? 'backwards' : 'forwards')
    turn.hidden = state.sort === 'random' || (!state.sort && !state.desc)
    const over = overlay?.querySelector('select')
    if (over) over.value = state.show
    depth.hidden = state.show !== 'tree'
    fill(lists, 'This filter as a list of images for another run: ',
      h('a', { href: url('api/list.txt', { stage: stage.name, q: state.q }), download: '' }, 'text'), ', ',
      h('a', { href: url('api/list.parquet', { stage: stage.name, q: state.q }), download: '' }, 'Parquet'))
  }

  /** @param {boolean} [silent] while columns are read: nothing is said of what has not changed */
  async function load(silent = false) {
    clearTimeout(again)
    last.abort()
    last = new AbortController()
    const mine = last.signal
    if (!silent) body.setAttribute('aria-busy', 'true')
    if (!rows.size && !silent) { if (!list.children.length) fill(body, loading('the images')) }
    let found
    try {
      found = await ask('api/rows', { stage: stage.name, q: state.q, sort: state.sort, desc: state.desc ? 1 : 0, offset: (state.page - 1) * PAGE, limit: PAGE, columns: shownColumns().join(',') }, mine)
    } catch (error) {
      if (mine.aborted) return
      body.removeAttribute('aria-busy')
      const refused = /** @type {import('./asking.js').AskingError} */ (error)
      if (refused.status === 400 && refused.more?.at !== undefined) {
        // a word that is still being typed is no fault
        if (typing && line.offers()) return
        line.fault(refused.message, refused.more.at)
        if (!rows.size) fill(body, none('No image is listed, since the filter above cannot be read.'))
        fill(count, 'The filter cannot be read')
        say(`The filter cannot be read: ${refused.message}`)
        return
      }
      fill(body, failed('The images', error, () => load()))
      return
    }
    if (mine.aborted) return
    body.removeAttribute('aria-busy')
    line.fault()
    const before = total
    total = found.total
    const most = Math.max(1, Math.ceil(total / PAGE))
    if (state.page > most && found.complete !== false) { change({ page: most }, true); return }
    const same = silent && found.rows.length === rows.size && found.rows.every((/** @type {any} */ row) => rows.has(row.row))
    rows.clear()
    for (const row of found.rows) rows.set(row.row, row)
    if (!same) draw()
    paint()
    if (back) comeBack()
    if (!silent || before !== total) say(state.q ? `${shown(total)} of ${shown(stage.rows)} images` : `${shown(total)} images`)
    panel.update(state.q)
    partly(found.complete !== false)
    if (found.complete === false) again = setTimeout(() => load(true), AGAIN_MS)
  }

  /** To the card that was left for its image, where it stood. */
  function comeBack() {
    back = false
    const place = [...rows.keys()].indexOf(left.row)
    if (place < 0 || ![document.body, document.querySelector('main')].includes(/** @type {any} */ (document.activeElement))) return
    roving(place)
    window.scrollTo(0, left.top)
    linkOf(place)?.focus({ preventScroll: true })
  }

  let told = -AGAIN_MS
  /** Of how many images the figures are. @param {boolean} complete */
  async function partly(complete) {
    reading.hidden = complete
    if (complete || performance.now() - told < AGAIN_MS / 2) return
    told = performance.now()
    try {
      const status = await ask('api/status', {}, view.signal)
      const [read, all] = status.stages[stage.name]?.columns_read ?? []
      fill(reading, all ? `The columns are being read: the figures are of the first ${shown(read)} of ${shown(all)} images.` : 'The columns are being read: the figures are of what has been read.')
    } catch { /* the next asking tells */ }
  }

  function shownColumns() {
    return [state.sort, ...HEADLINES].filter((each, i, all) => named.has(each) && all.indexOf(each) === i).slice(0, 3)
  }

  /** Cards as the state wants them. */
  function draw() {
    const focus = list.contains(document.activeElement)
    const of = { stage: stage.name, list: { q: state.q, sort: state.sort, desc: state.desc ? 1 : '' }, overlay: state.show, depth: state.depth, columns: shownColumns(), choose }
    if (!rows.size) {
      fill(body, none(state.q ? 'No image is like that. Take a term out of the filter.' : 'The stage has no rows yet.'))
      at = -1
      mark()
      return
    }
    fill(list, [...rows.values()].map((row) => card(row, { ...of, chosen: chosen.has(row.row) })))
    if (list.parentElement !== body) fill(body, list)
    roving(Math.min(Math.max(at, 0), rows.size - 1))
    if (focus) linkOf(at)?.focus({ preventScroll: true })
    mark()
  }

  /** Totals and pages. */
  function paint() {
    const of = state.q ? [h('strong', {}, shown(total)), ` of ${shown(stage.rows)} images`] : [h('strong', {}, shown(total)), ' images']
    fill(count, of, stage.rows < stage.records ? ` (${shown(stage.records - stage.rows)} not computed yet)` : null)
    const most = Math.ceil(total / PAGE)
    for (const place of [links, linksAbove]) {
      place.hidden = most < 2
      fill(place, most < 2 ? [] : pages(state.page, most, (page) => address({ page })))
    }
  }

  /** @param {MouseEvent} event */
  function turned(event) {
    const link = /** @type {HTMLElement} */ (event.target).closest('a')
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
    event.preventDefault()
    turnTo(Number(link.dataset.page))
  }

  /** @param {number} page */
  async function turnTo(page) {
    if (page < 1 || page > Math.ceil(total / PAGE) || page === state.page) return
    at = 0
    await change({ page })
    linkOf(0)?.focus({ preventScroll: true })
    window.scrollTo(0, 0)
  }

  /** @param {number} place @returns {HTMLAnchorElement | null} */
  function linkOf(place) {
    return list.children[place]?.querySelector('a') ?? null
  }

  /** One card is in the order of Tab, all others by arrows. @param {number} place */
  function roving(place) {
    const all = isOff()
    Array.from(list.children).forEach((each, i) => {
      const tab = all || i === place ? 0 : -1
      each.querySelectorAll('a, input').forEach((of) => { if (/** @type {HTMLElement} */ (of).tabIndex !== tab) /** @type {HTMLElement} */ (of).tabIndex = tab })
    })
    at = place
  }

  /** @param {number} by cards @param {boolean} [lines] lines of them */
  function move(by, lines = false) {
    if (!rows.size || !list.children.length) return
    const tops = lines ? Array.from(list.children, (each) => /** @type {HTMLElement} */ (each).offsetTop) : []
    const across = lines ? Math.max(1, tops.findIndex((top) => top !== tops[0]) === -1 ? tops.length : tops.findIndex((top) => top !== tops[0])) : 1
    const inside = list.contains(document.activeElement)
    const next = inside ? at + by * across : at
    if (next < 0 || next >= rows.size) return
    roving(next)
    linkOf(next)?.focus()
  }

  /** @param {number} row @param {{shiftKey: boolean}} event */
  function choose(row, event) {
    const order = [...rows.keys()]
    const place = order.indexOf(row)
    const from = order.indexOf(anchor)
    if (event.shiftKey && from >= 0) for (let i = Math.min(from, place); i <= Math.max(from, place); i++) chosen.add(order[i])
    else if (chosen.has(row)) chosen.delete(row)
    else chosen.add(row)
    anchor = row
    for (const each of chosen) if (rows.has(each)) known.set(each, rows.get(each)?.flag ?? null)
    mark()
    say(`${chosen.size} chosen`)
  }

  /** Which cards are chosen, and what can be done with them. */
  function mark() {
    for (const each of list.children) {
      const is = chosen.has(Number(/** @type {HTMLElement} */ (each).dataset.row))
      each.classList.toggle('chosen', is)
      const box = each.querySelector('input')
      if (box) box.checked = is
    }
    list.classList.toggle('choosing', chosen.size > 0)
    bar.hidden = !chosen.size
    if (!chosen.size) { fill(bar); return }
    fill(bar, h('p', {}, h('strong', {}, shown(chosen.size)), ' chosen ', h('button', { type: 'button', onclick: nothing }, 'Choose none')),
      flagBar(view, stage.name, [...chosen], flagOf, flagged))
  }

  function nothing() {
    chosen.clear()
    mark()
    linkOf(at)?.focus({ preventScroll: true })
    say('None chosen')
  }

  /** @param {number} row */
  function flagOf(row) {
    return rows.get(row)?.flag ?? known.get(row) ?? null
  }

  /** @param {number[]} some @param {any} flag */
  function flagged(some, flag) {
    for (const row of some) {
      known.set(row, flag)
      const of = rows.get(row)
      if (!of) continue
      of.flag = flag
      const old = list.querySelector(`[data-row="${row}"]`)
      const fresh = card(of, { stage: stage.name, list: {}, overlay: state.show, depth: state.depth, columns: [], chosen: false, choose })
      old?.querySelector('.flagged')?.replaceWith(/** @type {Element} */ (fresh.querySelector('.flagged')))
    }
    panel.update(state.q, true)
  }

  function keys() {
    const switchTo = (/** @type {string} */ over) => () => { if (overlays.includes(over)) change({ show: state.show === over ? 'none' : over }) }
    /** @type {import('./keys.js').Keys} */
    const found = {
      '/': { does: 'to the filter', run: () => { line.input.focus(); line.input.select() } },
      'ArrowRight l': { does: 'next card', run: (event) => (event.key === 'l' && overlays.includes('labels') && !list.contains(document.activeElement) ? switchTo('labels')() : move(1)) },
      'ArrowLeft h': { does: 'previous card', run: () => move(-1) },
      'ArrowDown j': { does: 'card below', run: () => move(1, true) },
      'ArrowUp k': { does: 'card above', run: () => move(-1, true) },
      Enter: { does: 'open the card', run: () => { if (list.contains(document.activeElement)) linkOf(at)?.click() } },
      PageDown: { does: 'next page', run: () => turnTo(state.page + 1) },
      PageUp: { does: 'previous page', run: () => turnTo(state.page - 1) },
      Space: { does: 'choose the card, with Shift all up to it', run: (event) => { const row = [...rows.keys()][at]; if (row !== undefined) choose(row, event) } },
      Escape: { does: 'choose none', run: () => { if (chosen.size) nothing() } },
    }
    if (overlays.includes('mask')) found.m = { does: 'mask', run: switchTo('mask') }
    if (overlays.includes('styled')) found.s = { does: 'restyled, or the photograph', run: switchTo('styled') }
    if (overlays.includes('tree')) found.t = { does: 'tree', run: switchTo('tree') }
    return { ...found, ...flagKeys(view, () => {
      const of = chosen.size ? [...chosen] : list.contains(document.activeElement) ? [...rows.keys()].slice(at, at + 1) : []
      return of.length ? { stage: stage.name, rows: of, flag: flagOf, changed: (some, flag) => { flagged(some, flag); if (chosen.size) mark() } } : null
    }) }
  }
}

const DEPTH = 3

/** @param {Record<string, string>} query @param {string[]} overlays */
function read(query, overlays) {
  return {
    q: query.q ?? '', sort: query.sort ?? '', desc: Boolean(query.desc), page: Math.max(1, Number.parseInt(query.page, 10) || 1),
    show: overlays.includes(query.show) ? query.show : overlays[0], depth: Math.max(0, Number.parseInt(query.depth ?? `${DEPTH}`, 10) || 0),
  }
}

/** @param {any} stage */
function labelled(stage) {
  return stage.labelled ? [{ name: 'label', kind: 'words' }] : []
}

/** @param {string} text @param {string} id @param {string[][]} options @param {string} value @param {(value: string) => void} chosen */
function select(text, id, options, value, chosen) {
  const field = h('select', { id: `browse-${id}`, onchange: () => chosen(field.value) }, options.map(([of, words]) => h('option', { value: of }, words)))
  field.value = value
  return h('label', {}, `${text} `, field)
}

/** @param {import('./main.js').View} view @param {string} stage */
function goTo(view, stage) {
  const fault = h('span', { class: 'fault', role: 'alert' })
  const field = h('input', { type: 'text', size: 14, maxlength: 2000, 'aria-label': 'Row number or image id' })
  return h('form', { class: 'goto', onsubmit: async (/** @type {Event} */ event) => {
    event.preventDefault()
    const text = field.value.trim()
    if (!text) return
    try {
      const row = /^\d{1,15}$/.test(text) ? Number(text) : (await ask('api/find', { stage, id: text }, view.signal)).row
      go(to('image', [row], { stage }))
    } catch (error) {
      if (!view.signal.aborted) fill(fault, error instanceof Error ? error.message : String(error))
    }
  } }, h('span', {}, 'Go to row or id '), field, ' ', h('button', {}, 'Go'), ' ', fault)
}
