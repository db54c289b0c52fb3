// The pairs of a run: filtered, sorted and counted as images are, page by page.

import { here, step, stay, to } from './address.js'
import { ask } from './asking.js'
import { facets } from './facets.js'
import { fill, h, name, say, shown, wide } from './dom.js'
import { filterLine } from './filterline.js'
import { pages } from './pages.js'
import { failed, loading, none } from './states.js'

export const PAGE = 60
const AGAIN_MS = 1000
const ID = { name: 'id', kind: 'id' }
/** What is shown of each, where the run has it: column, head, whether it is a number. @type {[string, string, boolean][]} */
const SHOWN = [['pck', 'PCK', true], ['points_right', 'right', true], ['points_scored', 'of', true], ['margin', 'mean margin', true], ['category', 'category', false]]
/** @type {Record<string, string>} */
const ORDERS = { pck: 'PCK', margin: 'confidence: mean margin', points_scored: 'points with truth', points_right: 'points that are right', category: 'category', status: 'status' }
// the pair that was looked at last, for coming back to it
let left = -1

/** What an address says of the list. @param {Record<string, string>} query */
export function listOf({ stage, q, sort, desc }) {
  return { stage, q, sort, desc: desc ? 1 : null }
}

/** A pair is shown. @param {number} row */
export function leave(row) {
  left = row
}

/** @param {import('./main.js').View} view @param {any} stage of `api/run` */
export async function list(view, stage) {
  let asked = read(view.address.query)
  let last = new AbortController()
  let again = 0
  let total = 0
  let typing = false
  view.signal.addEventListener('abort', () => { clearTimeout(again); last.abort() })
  const named = new Set(stage.columns.map((/** @type {any} */ each) => each.name))
  const columns = SHOWN.filter(([of]) => named.has(of))

  const line = filterLine({
    text: asked.q, columns: [ID, ...stage.columns], words: (of) => panel.words(of),
    changed: (q, done) => {
      if (q !== asked.q) change({ q, page: 1 }, typing)
      typing = !done
    },
  })
  // where the images of a pair stand in the run is nothing to count by
  const counted = stage.columns.filter((/** @type {any} */ each) => !each.name.endsWith('_record')).map((/** @type {any} */ each) => ({ ...each, kept: each.name === 'category' }))
  const panel = facets({ signal: view.signal, stage: stage.name, columns: counted, changed: (q) => { line.set(q); change({ q, page: 1 }) }, reading: () => {} })
  const count = h('p', { class: 'total' })
  const body = h('div', { class: 'body' })
  const links = [h('nav', { class: 'pages above', 'aria-label': 'Pages, above the pairs' }), h('nav', { class: 'pages', 'aria-label': 'Pages' })]
  for (const each of links) each.addEventListener('click', turned)
  const sorts = [['', 'order of the run'], ['random', 'random'], ['id', 'name'], ...Object.entries(ORDERS).filter(([of]) => named.has(of))]
  const sort = h('select', { id: 'pairs-sort', onchange: () => change({ sort: sort.value, page: 1 }) }, sorts.map(([of, words]) => h('option', { value: of }, words)))
  const turn = h('button', { type: 'button', onclick: () => change({ desc: !asked.desc, page: 1 }) })
  const sideways = h('details', { class: 'side' }, h('summary', {}, 'Counts and ranges'), panel.element)
  sideways.open = window.matchMedia('(min-width: 60rem)').matches

  fill(view.place,
    h('div', { class: 'top' }, h('h1', {}, 'Pairs'), count), line.element,
    h('div', { class: 'columns' }, sideways,
      h('div', { class: 'found' }, h('div', { class: 'controls' }, h('label', {}, 'Sort by ', sort), turn, links[0]), body, links[1])))
  view.keys({
    '/': { does: 'to the filter', run: () => { line.input.focus(); line.input.select() } },
    PageDown: { does: 'next page', run: () => turnTo(asked.page + 1) },
    PageUp: { does: 'previous page', run: () => turnTo(asked.page - 1) },
  })
  await load()
  const came = /** @type {HTMLElement | null} */ (body.querySelector(`[data-row="${left}"] a`))
  left = -1
  came?.focus({ preventScroll: true })
  came?.scrollIntoView({ block: 'center' })

  /** @param {Partial<typeof asked>} more */
  function address(more = {}) {
    const then = { ...asked, ...more }
    return to('pairs', [], { ...view.address.query.stage ? { stage: stage.name } : {}, q: then.q, sort: then.sort, desc: then.desc ? 1 : null, page: then.page > 1 ? then.page : null })
  }

  /** @param {Partial<typeof asked>} more @param {boolean} [quiet] without a step for back */
  function change(more, quiet = false) {
    const hash = address(more)
    if (quiet) stay(hash)
    else if (hash !== location.hash) step(hash)
    asked = read(here().query)
    return load()
  }

  /** @param {boolean} [silent] while columns are read */
  async function load(silent = false) {
    clearTimeout(again)
    last.abort()
    last = new AbortController()
    const mine = last.signal
    sort.value = asked.sort
    fill(turn, asked.desc ? '↓ ' : '↑ ', ['', 'id', 'category', 'status'].includes(asked.sort) ? (asked.desc ? 'backwards' : 'forwards') : asked.desc ? 'largest first' : 'smallest first')
    turn.hidden = asked.sort === 'random'
    if (!silent) body.setAttribute('aria-busy', 'true')
    if (!body.firstChild) fill(body, loading('the pairs'))
    let found
    try {
      found = await ask('api/rows', { ...asked, desc: asked.desc ? 1 : 0, stage: stage.name, page: null, offset: (asked.page - 1) * PAGE, limit: PAGE, columns: columns.map(([of]) => of).join() }, mine)
    } catch (error) {
      if (mine.aborted) return
      body.removeAttribute('aria-busy')
      const refused = /** @type {import('./asking.js').AskingError} */ (error)
      if (refused.status !== 400 || refused.more?.at === undefined) return void fill(body, failed('The pairs', error, () => load()))
      // a word that is still being typed is no fault
      if (typing && line.offers()) return
      line.fault(refused.message, refused.more.at)
      fill(count, 'The filter cannot be read')
      if (!body.querySelector('table')) fill(body, none('No pair is listed, since the filter above cannot be read.'))
      return void say(`The filter cannot be read: ${refused.message}`)
    }
    body.removeAttribute('aria-busy')
    line.fault()
    total = found.total
    const most = Math.max(1, Math.ceil(total / PAGE))
    if (asked.page > most && found.complete) return void change({ page: most }, true)
    fill(count, h('strong', {}, shown(total)), asked.q ? ` of ${shown(stage.rows)} pairs` : ' pairs', stage.rows < stage.records ? ` (${shown(stage.records - stage.rows)} not computed yet)` : null)
    if (!silent) say(asked.q ? `${shown(total)} of ${shown(stage.rows)} pairs` : `${shown(total)} pairs`)
    fill(body, total ? table(found.rows) : none(asked.q ? 'No pair is like that. Take a term out of the filter.' : 'The stage has no rows yet.'))
    for (const place of links) {
      place.hidden = most < 2
      fill(place, most < 2 ? [] : pages(asked.page, most, (page) => address({ page })))
    }
    panel.update(asked.q)
    if (!found.complete) again = setTimeout(() => load(true), AGAIN_MS)
  }

  /** @param {any[]} rows */
  function table(rows) {
    const listed = listOf(here().query)
    return [named.has('pck') ? h('p', { class: 'note' }, 'PCK: share of the points with truth that are at most a tenth of the length from it') : null, wide('Pairs', h('table', {},
      h('thead', {}, h('tr', {}, ['pair', ...columns.map(([, head]) => head)].map((each) => h('th', { scope: 'col' }, each)))),
      h('tbody', {}, rows.map((row) => h('tr', { 'data-row': row.row },
        h('th', { scope: 'row' }, h('a', { href: to('pairs', [row.row], listed) }, name(row.id, 60))),
        row.error ? h('td', { class: 'fault', colspan: Math.max(1, columns.length) }, `failed: ${row.error.text || row.error.type}`)
          : columns.map(([of, , number]) => (number ? h('td', { class: 'number' }, shown(row.values[of])) : h('td', {}, row.values[of] ? name(row.values[of], 30) : '–'))))))))]
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
    if (page < 1 || page > Math.ceil(total / PAGE) || page === asked.page) return
    await change({ page })
    const first = /** @type {HTMLElement | null} */ (body.querySelector('tbody a'))
    first?.focus({ preventScroll: true })
    window.scrollTo(0, 0)
  }
}

/** @param {Record<string, string>} query */
function read({ q, sort, desc, page }) {
  return { q: q ?? '', sort: sort ?? '', desc: Boolean(desc), page: Math.max(1, Number.parseInt(page, 10) || 1) }
}
