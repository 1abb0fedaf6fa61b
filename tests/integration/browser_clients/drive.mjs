// Puppeteer drives a page through the address and key given: the arguments are address, key and the page's address.
import puppeteer from 'puppeteer-core';

const [endpoint, key, site] = process.argv.slice(2);
const browser = await puppeteer.connect({browserWSEndpoint: endpoint, headers: {'X-Session-API-Key': key}});
const context = await browser.createBrowserContext();
const page = await context.newPage();
await page.goto(site);
await page.type('#name', 'Ada');
await page.click('button');
await page.waitForSelector('#greeting:not(:empty)');
page.on('dialog', dialog => dialog.accept('yes'));
const opened = new Promise(resolve => page.once('popup', resolve));
await page.evaluate(() => { window.open('about:blank'); });
const frame = page.frames().find(each => each !== page.mainFrame());
console.log(JSON.stringify({
  greeting: await page.$eval('#greeting', each => each.textContent),
  inner: await frame.$eval('body', each => each.textContent.trim()),
  dialog: await page.evaluate(() => prompt('sure?')),
  popup: (await opened).url(),
  picture: (await page.screenshot({fullPage: true})).length,
  version: await browser.version(),
}));
await context.close();
await browser.disconnect();
