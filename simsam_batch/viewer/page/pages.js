// Pages as links: the first, those near, the last.

import { h, shown } from './dom.js'

/**
 * @param {number} page from 1 @param {number} count of pages
 * @param {(page: number) => string} link
 */
export function pages(page, count, link) {
  const near = [1, page - 2, page - 1, page, page + 1, page + 2, count].filter((each, i, all) => each >= 1 && each <= count && all.indexOf(each) === i)
  const one = (/** @type {number} */ to, /** @type {string} */ text, /** @type {Record<string, any>} */ more = {}) =>
    h('li', {}, to < 1 || to > count ? h('span', { class: 'muted off' }, text) : h('a', { href: link(to), 'data-page': to, ...more }, text))
  return h('ul', {},
    one(page - 1, '‹ Previous', { rel: 'prev' }),
    near.flatMap((each, i) => [
      i && each - near[i - 1] > 1 ? h('li', { 'aria-hidden': 'true' }, '…') : null,
      one(each, shown(each), { 'aria-label': `Page ${each}`, 'aria-current': each === page ? 'page' : null })]),
    one(page + 1, 'Next ›', { rel: 'next' }))
}
